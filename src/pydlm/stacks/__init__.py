"""The stacks that come with pydlm, one module each; none knows another."""

__all__: list[str] = []
