"""``python -m pydlm.cli`` is the command `pydlm`."""

from pydlm.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
