"""The application: its verbs, and errors as one line with an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core

from posttrain import __version__
from posttrain.cli import (
    behaviors,
    check,
    compare,
    diagnose,
    env,
    export,
    figures,
    forecast,
    gate,
    import_,
    init,
    loop,
    plot,
    probes,
    regrade,
    report,
    stages,
    train,
)
from posttrain.cli.options import repeat_option

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def _with_examples(examples: tuple[str, ...]) -> str:
    """Return the last lines of a help page; the \\b keeps click from joining them."""
    return "\b\n" + "\n".join(("Examples:", *(f"  {example}" for example in examples)))


class _Interrupted(Exception):
    """Carries a KeyboardInterrupt through typer, which would end with 130 and without a word, whatever the signal was."""


class _Verbs(typer.core.TyperGroup):
    """The verbs; what stops one of them reaches `main`."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _Interrupted(stop) from stop


class _Verb(typer.core.TyperCommand):
    """A verb; `--retain` takes all names up to the next option, `--map`, `--data-map`, `--columns` and `--sampling` all pairs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what stands behind the verb."""
        for option, within in (("--retain", ""), *((name, "=") for name in ("--map", "--data-map", "--columns", "--sampling"))):
            args = repeat_option(args, option, within)
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="posttrain",
    cls=_Verbs,
    help="Find the behavioral bottleneck of a language-model checkpoint, run the post-training stage that removes it, and measure again.",
    epilog=_with_examples(("posttrain loop demo products spell_backward --out runs/first",)),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

VERBS: dict[str, tuple[Any, tuple[str, ...]]] = {
    (name := module.__name__.rpartition(".")[2]).rstrip("_"): (getattr(module, name), module.EXAMPLES)
    for module in (
        diagnose,
        loop,
        train,
        import_,
        export,
        compare,
        gate,
        forecast,
        check,
        regrade,
        init,
        report,
        plot,
        figures,
        stages,
        probes,
        behaviors,
        env,
    )
}
"""Every verb: its function and the examples that end its help page."""

for _name, (_function, _examples) in VERBS.items():
    app.command(_name, cls=_Verb, epilog=_with_examples(_examples))(_function)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"posttrain {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors that the user can fix become one line and exit code 2."""
    from posttrain.analysis.input_error import InputError
    from posttrain.diagnose.errors import PosttrainError, StoppedBySignal, UserError

    try:
        _refuse_broken_text(sys.argv[1:])
        code = app(standalone_mode=False)
        if isinstance(code, int) and code:  # of a typer.Exit
            sys.exit(code)
    except (UserError, InputError) as error:
        _fail(str(error), 2)
    except PosttrainError as error:
        _fail(str(error), 1)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort, _Interrupted) as stop:
        cause = stop.__cause__
        code = 128 + (cause.signal_number if isinstance(cause, StoppedBySignal) else signal.SIGINT)
        if os.environ.get("RANK", "0") != "0":  # torchrun started several, and the first one says it
            sys.exit(code)
        _fail("stopped; what is finished is kept, and diagnose, train and loop resume with the same command", code)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}; give a path that can be read or written", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        # A usage error of the parser, such as an unknown option or a missing argument.
        context = getattr(error, "ctx", None)
        verb = context.info_name if context is not None and context.parent is not None else None
        _fail(f"{error.format_message().rstrip('.')}; see `posttrain {f'{verb} ' if verb else ''}--help`", 2)


def _refuse_broken_text(arguments: Sequence[str]) -> None:
    """Refuse arguments that are no text in the encoding of the terminal: nothing that is written could hold them.

    Raises:
        UserError: Code `broken_text`.
    """
    from posttrain.diagnose.errors import UserError

    for number, text in enumerate(arguments, start=1):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"argument {number}: got bytes that are no UTF-8 text ({text!a}); give files and names that are",
                code="broken_text",
            ) from error


def _fail(message: str, code: int) -> None:
    print(f"posttrain: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
