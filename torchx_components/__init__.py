"""TorchX components: the shape of a job and its environment. They do not depend on the model."""
