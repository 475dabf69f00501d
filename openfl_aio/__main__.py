"""``python -m openfl_aio``: the same as the ``openfl-aio`` command."""

from openfl_aio.cli import main

if __name__ == "__main__":
    main()
