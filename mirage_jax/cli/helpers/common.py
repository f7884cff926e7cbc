"""What every command shares: the config flag, its tiny variant, errors as one line, and help."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mirage_jax.cli.helpers import short_flags
from mirage_jax.cli.helpers.compilation import compile_fast, use_own_kernels
from mirage_jax.cli.helpers.flag_types import PathName
from mirage_jax.cli.helpers.picture_shapes import FOOTAGE, footage_worlds
from mirage_jax.cli.helpers.quiet import show, silence_libraries
from mirage_jax.io import outputs
from mirage_jax.io.workdir import Workdir

# Installed beside this package, so that commands work from any folder.
DEFAULT_CONFIG = str(Path(__file__).resolve().parents[3] / "experiments" / "quickstart.py")

_COMMANDS = "mirage_jax.cli."
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")

_CONFIG = config_flags.DEFINE_config_file(
    # A default here would be read, with the overrides of the command line, at import.
    "config",
    None,
    f"Experiment file (default: {DEFAULT_CONFIG}); override fields with --config.name=value.",
)
_WORKDIR = flags.DEFINE(
    PathName(), "workdir", "runs/quickstart", "Folder for everything this run writes."
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
    for section in config.values():
        for field in _PATHS:
            if isinstance(section, ConfigDict) and isinstance(section.get(field), str):
                section[field] = os.path.expanduser(section[field])
    if "worlds" in config:  # of which `--config.worlds=a,b` comes as one name
        config.worlds = tuple(name for words in config.worlds for name in words.split(",") if name)
    data = config.get("data", {})
    if data.get("root") or data.get("shapes"):
        config.worlds = footage_worlds(config)
        told = config.text.prompts
        for world in config.worlds:
            if FOOTAGE in told and world not in told:
                told[world] = told[FOOTAGE]
    config.lock()
    return config


_PATHS = (
    "root",
    "depth_weights",
    "embeddings",
    "pretrained",
    "init_from",
    "teacher",
    "student",
    "openarena",
)
"""Fields of any section that name files or folders."""


def overrides() -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The experiment file, and its fields named on the command line: as it has them, and as now."""
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    file, now = _fields(load_config(path)), _fields(_CONFIG.value)
    named = config_flags.get_override_values(flags.FLAGS["config"])
    return path, {name: file[name] for name in named}, {name: now[name] for name in named}


def config_is_named() -> bool:
    """Whether the command line names a config other than the default one."""
    return config_flags.get_config_filename(flags.FLAGS["config"]) != DEFAULT_CONFIG


def _set_dotted(config: ConfigDict, name: str, value) -> None:
    *parents, leaf = name.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    if leaf not in node:
        raise UserError(f"tiny_overrides: the config has no field {name!r}")
    node[leaf] = value


def workdir() -> Path:
    """The folder of this run, made if needed; ValueError if that cannot be."""
    path = Path(_WORKDIR.value)
    outputs.check_folder(f"--workdir {path}", path)
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def prepare_jax(config: ConfigDict, workdir: Workdir, *, timed: bool = False) -> None:
    """Settings that must precede the first JAX array: host devices, how and where to compile.

    Tiny variants compile fast, unless the programs are to be timed.
    """
    import jax

    use_own_kernels()
    if config.tiny and not timed:
        compile_fast()
    if config.host_devices > 1:
        jax.config.update("jax_num_cpu_devices", config.host_devices)
    cache = workdir.root / "compilation_cache"
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
    given = list(sys.argv if argv is None else argv)
    silence_libraries()
    try:
        try:
            for flag in short_flags.of_command(module):
                given = flag.put(given)
        except ValueError as error:
            raise UserError(str(error)) from error
        words, path = _config_first(given) if config else (given, "")
        experiment = load_config(path) if config else None
        if any(word in ("--help", "-h", "-help", "--helpfull") for word in words[1:]):
            doc = importlib.import_module(module).__doc__ or ""
            show(_help(doc, module, path, experiment))
            sys.exit(0)
        if experiment is not None:
            _check_names(experiment, words)
        _check_flags(module, words)
        sys.argv = words  # where ml_collections looks for overrides of fields
        parse = functools.partial(_parse, experiment)
        app.run(lambda _: _guarded(main), argv=words, flags_parser=parse)
    except UserError as error:
        if "--debug" in given:
            raise
        fail(str(error))


def names_and_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names and the options of a command line, where "--name value" is "--name=value"."""
    names, options = [], []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            names.append(word)
            continue
        flag = word.lstrip("-")
        takes_value = flag in flags.FLAGS and not flags.FLAGS[flag].boolean
        value = next(rest, None) if takes_value else None
        options.append(word if value is None else f"{word}={value}")
    return names, options


def _config_first(argv: Sequence[str]) -> tuple[list[str], str]:
    """The command line with `--config=FILE` before every override of its fields, and FILE."""
    path, rest = DEFAULT_CONFIG, []
    words = iter(argv[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            path = os.path.expanduser(value if equals else next(words, ""))
        else:
            rest.append(word)
    return [argv[0], f"--config={path}", *rest], path


def _check_names(config: ConfigDict, argv: Sequence[str]) -> None:
    known = _fields(config)
    for found in filter(None, map(_OVERRIDE.match, argv[1:])):
        if found[1] not in known:
            near = difflib.get_close_matches(found[1], known, n=1, cutoff=0.4)
            hint = f"; did you mean --config.{near[0]}?" if near else ""
            raise UserError(f"--config.{found[1]}: no such field{hint}\nTry --help.")


def _check_flags(module: str, argv: Sequence[str]) -> None:
    """Refuses flags of other commands, whose modules a command imports for what they do."""
    own, others = set(_own_flags(module)), flags.FLAGS.flags_by_module_dict()
    foreign = {
        flag.name: name
        for name, defined in others.items()
        for flag in defined
        if name.startswith(_COMMANDS) and flag.name not in own
    }
    for word in argv[1:]:
        name = word.lstrip("-").partition("=")[0]
        name = name if name in foreign else name.removeprefix("no")
        if word.startswith("-") and name in foreign:
            of = foreign[name].rpartition(".")[2]
            raise UserError(f"--{name}: a flag of {of}, not of this command\nTry --help.")


def _fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Every field and every section by its dotted name."""
    fields = {}
    for name, value in config.items():
        fields[f"{prefix}{name}"] = value
        if isinstance(value, ConfigDict):
            fields |= _fields(value, f"{prefix}{name}.")
    return fields


def _parse(config: ConfigDict | None, argv: list[str]) -> list[str]:
    try:
        remaining = flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        found = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
        if found is None or config is None:
            words = re.sub(r"^flag (--\w+)=.*?: found ", r"\1: found ", str(error))
            raise UserError(f"{words}\nTry --help.") from error
        raise _wrong_type(found[1], found[2], _fields(config)[found[1]]) from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{error}\nTry --help.") from error
    if len(remaining) > 1:
        raise UserError(f"unexpected argument {remaining[1]!r}; options look like --name=value")
    if config is None:
        return remaining
    # The parser of tuples takes any elements.
    before, after = _fields(config), _fields(_CONFIG.value)
    for name in config_flags.get_override_values(flags.FLAGS["config"]):
        default, value = before[name], after[name]
        elements = set(map(type, default)) if isinstance(default, tuple) else set()
        if elements and not set(map(type, value)) <= elements:
            raise _wrong_type(name, value, default)
    return remaining


def _wrong_type(name: str, found: Any, default: Any) -> UserError:
    expected = f"{type(default).__name__} such as {default!r}"
    if isinstance(default, ConfigDict):
        expected = f"one of its fields, as in --config.{name}.{next(iter(default), 'NAME')}"
    return UserError(f"--config.{name}: found {found!r}, expected {expected}")


def _guarded(main: Callable[[], int | None]) -> int:
    # At level INFO libraries tell, for one, which backends they looked for and did not find.
    logging.set_verbosity(logging.INFO if _DEBUG.value else logging.WARNING)
    try:
        return main() or 0
    except (ValueError, OSError) as error:
        if _DEBUG.value:
            raise
        fail(str(error) or type(error).__name__)
    except (RuntimeError, AssertionError):
        missing = "" if _DEBUG.value else _missing_device()
        if not missing:
            raise
        fail(missing)
    except KeyboardInterrupt:
        fail("interrupted; what was finished is kept, the same command goes on from there", 130)


def _missing_device() -> str:
    """What keeps JAX from its devices; "" if they are there, or nothing has asked for them."""
    if "jax" not in sys.modules:
        return ""
    import jax

    asked = jax.config.values["jax_platforms"]
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition(" (set JAX_PLATFORMS")[0] or "none of them is there"
        return (
            f"JAX_PLATFORMS: found {asked!r}: {reason}; expected devices that are there: unset it, "
            "or cpu"
        )
    return ""


def fail(message: str, status: int = 2) -> NoReturn:
    """Prints one line to stderr and ends the program."""
    print(f"mirage: error: {message}", file=sys.stderr)
    sys.exit(status)


def _help(doc: str, module: str, path: str, config: ConfigDict | None) -> str:
    """The command's docstring, its flags, and every field of its config with the default."""
    lines = [doc.strip(), "", "Flags:"]
    for flag in _own_flags(module, config is not None).values():
        told = flag.name != "config" and flag.default not in (None, "", [])
        default = f" (default: {flag.default!r})" if told else ""
        allowed = getattr(flag.parser, "range", "")
        allowed = f" ({allowed})" if allowed else ""
        lines.append(f"  --{flag.name}: {flag.help}{allowed}{default}")
    for short in short_flags.of_command(module):
        lines.append(f"  --{short.name}: {short.help}")
    if config is None:
        return "\n".join(lines)
    lines += ["", f"Fields of {path}, overridden as --config.NAME=VALUE:"]
    from mirage_jax.cli.helpers.config_sections import field_meanings  # needs JAX

    lines += [f"  {line}" for line in describe_config(config, field_meanings())]
    return "\n".join(lines)


def _own_flags(module: str, config: bool = True) -> dict[str, flags.Flag]:
    """Flags of a command by name, those that all have last: `config` = it runs an experiment."""
    # Run as `python -m`, the command's own module is called __main__.
    command = sys.modules.get(module, sys.modules["__main__"])
    defined = flags.FLAGS.flags_by_module_dict()
    found = {flag.name: flag for flag in defined.get(module, defined.get("__main__", []))}
    for name in getattr(command, "FLAG_MODULES", ()):
        found |= {flag.name: flag for flag in defined.get(name, [])}
    shared = {flag.name: flag for flag in defined[__name__]}
    return found | (shared if config else {"debug": shared["debug"]})


def load_config(path: str) -> ConfigDict:
    """Reads an experiment file (`file.py` or `file.py:argument`) without the flag machinery.

    Raises:
      UserError: if there is no such file, or it does not give a config.
    """
    file, _, argument = path.partition(":")
    if not Path(file).is_file():
        raise UserError(
            f"--config: no file {file!r}; expected an experiment such as {DEFAULT_CONFIG}"
        )
    loader = SourceFileLoader("mirage_experiment", file)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except Exception as error:  # it is its author's program: anything may go wrong in it
        raise UserError(
            f"--config {file}: not a usable experiment ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config {file}: get_config gave {type(config)}, expected a ConfigDict")
    return config


def describe_config(config: ConfigDict, meanings: Mapping[str, str] | None = None) -> list[str]:
    """One line `name = value` per leaf, with its meaning and range where they are given."""
    lines = []
    for name, value in _fields(config).items():
        if not isinstance(value, ConfigDict) and name != "tiny_overrides":
            meaning = (meanings or {}).get(name, "")
            lines.append(f"{name} = {value!r}" + (f"  # {meaning}" if meaning else ""))
    return lines
