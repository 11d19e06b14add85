"""EASQ on TorchRec: a ranking model trained on dense behaviour and steered by sparse questionnaire answers."""

__version__ = "0.1.0"
