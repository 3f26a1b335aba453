"""The command line: `keras-rmda demo | compress | inspect | strip | export | profile | bench | report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        The exit status: 0, or 2 for bad input, with one line on standard error and no file touched.
    """
    # Not at the top: `platform.startup` reads the arguments before Keras is imported.
    from keras_rmda.cli import commands
    from keras_rmda.cli.arguments import UsageError, complain, parser
    from keras_rmda.platform import compat

    try:
        options = parser().parse_args(arguments)
        with compat.quiet_tensorflow():
            commands.COMMANDS[options.command](options)
    except (UsageError, ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        return complain(error)
    except KeyboardInterrupt:
        print("\nkeras-rmda: interrupted", file=sys.stderr)
        return 130
    return 0
