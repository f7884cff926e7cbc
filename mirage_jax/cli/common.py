"""What every command shares: the config flag, its tiny variant, errors as one line, and help."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mirage_jax.layout import Layout

DEFAULT_CONFIG = "experiments/quickstart.py"

_CONFIG = config_flags.DEFINE_config_file(
    # A default here would be read, with the overrides of the command line, at import.
    "config",
    None,
    f"Experiment file (default: {DEFAULT_CONFIG}); override fields with --config.name=value.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/quickstart", "Folder for everything this run writes."
)
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


class UserError(ValueError):
    """Something the caller can mend; printed as one line without a traceback."""


def resolve_config() -> ConfigDict:
    """The config of the command line, with the tiny variant applied under explicit overrides.

    An experiment lists in `tiny_overrides` (dotted names) what makes it run on a CPU in under a
    minute. Fields named on the command line win over both.
    """
    config: ConfigDict = _CONFIG.value
    if config.tiny:
        explicit = set(config_flags.get_override_values(flags.FLAGS["config"]))
        for name, value in config.tiny_overrides:
            if name not in explicit:
                _set_dotted(config, name, value)
    config.lock()
    return config


def _set_dotted(config: ConfigDict, name: str, value) -> None:
    *parents, leaf = name.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    if leaf not in node:
        raise UserError(f"tiny_overrides: the config has no field {name!r}")
    node[leaf] = value


def workdir() -> Path:
    """The folder of this run, made if needed."""
    path = Path(_WORKDIR.value)
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def prepare_jax(config: ConfigDict, layout: Layout) -> None:
    """Settings that must precede the first JAX array: host devices and the compilation cache."""
    import jax

    if config.host_devices > 1:
        jax.config.update("jax_num_cpu_devices", config.host_devices)
    cache = layout.root / "compilation_cache"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def run(
    main: Callable[[], int | None],
    module: str,
    argv: Sequence[str] | None = None,
    *,
    config: bool = True,
) -> None:
    """Runs a command: parses flags, prints user errors as one line; tracebacks need --debug.

    `config=False` is for commands that run no experiment.
    """
    argv = list(sys.argv if argv is None else argv)
    if config and not any(a.startswith("--config=") or a == "--config" for a in argv):
        argv.insert(1, f"--config={DEFAULT_CONFIG}")
    doc = importlib.import_module(module).__doc__ or ""
    if any(a in ("--help", "-h", "-help", "--helpfull") for a in argv[1:]):
        print(_help(doc, module, argv, config))
        sys.exit(0)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        app.run(lambda _: _guarded(main), argv=argv, flags_parser=_parse)
    except UserError as error:
        fail(str(error))


def _parse(argv: list[str]) -> list[str]:
    try:
        remaining = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{error}\nTry --help.") from error
    if len(remaining) > 1:
        raise UserError(f"unexpected argument {remaining[1]!r}; options look like --name=value")
    return remaining


def _guarded(main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except (ValueError, OSError) as error:
        if _DEBUG.value:
            raise
        fail(str(error) or type(error).__name__)
    except KeyboardInterrupt:
        fail("interrupted; what was finished is kept, the same command goes on from there", 130)


def fail(message: str, status: int = 2) -> NoReturn:
    """Prints one line to stderr and ends the program."""
    print(f"mirage: error: {message}", file=sys.stderr)
    sys.exit(status)


def _help(doc: str, module: str, argv: Sequence[str], config: bool) -> str:
    """The command's docstring, its flags, and every field of its config with the default."""
    lines = [doc.strip(), "", "Flags:"]
    ours = (module, __name__)
    for name in ours:
        for flag in flags.FLAGS.flags_by_module_dict().get(name, []) or _main_flags(name, module):
            if name == __name__ and not config and flag.name != "debug":
                continue
            default = "" if flag.name == "config" else f" (default: {flag.default!r})"
            lines.append(f"  --{flag.name}: {flag.help}{default}")
    if not config:
        return "\n".join(lines)
    path = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), DEFAULT_CONFIG)
    lines += ["", f"Fields of {path}, overridden as --config.NAME=VALUE:"]
    lines += [f"  {line}" for line in describe_config(load_config(path))]
    return "\n".join(lines)


def _main_flags(name: str, module: str) -> list[flags.Flag]:
    # Run as `python -m`, the command's own module is called __main__.
    return flags.FLAGS.flags_by_module_dict().get("__main__", []) if name == module else []


def load_config(path: str) -> ConfigDict:
    """Reads an experiment file (`file.py` or `file.py:argument`) without the flag machinery."""
    import importlib.util

    file, _, argument = path.partition(":")
    if not Path(file).is_file():
        raise UserError(
            f"--config: no file {file!r}; expected an experiment such as {DEFAULT_CONFIG}"
        )
    spec = importlib.util.spec_from_file_location("mirage_experiment", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def describe_config(config: ConfigDict, prefix: str = "") -> list[str]:
    """One line `name = value` per leaf."""
    lines = []
    for name, value in config.items():
        if isinstance(value, ConfigDict) and name != "tiny_overrides":
            lines += describe_config(value, f"{prefix}{name}.")
        elif name != "tiny_overrides":
            lines.append(f"{prefix}{name} = {value!r}")
    return lines
