"""What can be wrong with a model; a text names the model, the cause and the remedy in one line."""


class ConfigError(ValueError):
    """A mistake in a configuration: the text names the file, the place and the rule."""

    def __init__(self, text: str) -> None:
        # Texts quote the file, where a name may hold a line break.
        super().__init__(' '.join(text.splitlines()))


class ModelError(RuntimeError):
    """A model that cannot be loaded or run."""


class InputError(ValueError):
    """An input that the model cannot take: the text says what came and what is wanted."""
