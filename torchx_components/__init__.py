"""TorchX components: the shape of a job and its environment. Nothing of the model is known here."""
