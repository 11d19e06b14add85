"""What a process is doing, read off the stacks of its threads while it does it."""

from __future__ import annotations

import inspect
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

PACKAGE = Path(__file__).parents[2]
COLLECTIVES = {
    *("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "all_to_all", "all_to_all_single"),
    *("barrier", "broadcast", "broadcast_object_list", "gather_object", "reduce_scatter", "reduce_scatter_tensor"),
    *("scatter_object_list", "init_process_group", "new_group", "reduce", "gather", "scatter", "send", "recv"),
}
"""Functions of torch.distributed that return when other ranks have come to them as well."""
EXCHANGE = ("training/runtime.py", "Exchange.wait")
"""Where this package itself waits for one that was started before."""
BACKWARD = "_engine_run_backward"
"""Autograd's entry."""

PHASES = {
    ("default_data.py", "prepare_data"): "preparing the data",
    ("config_file.py", "write_config"): "writing the config",
    ("training/trainer.py", "Trainer.__init__"): "building the model",
    ("training/trainer.py", "Trainer._stream"): "reading a batch",
    ("training/trainer.py", "Trainer._forward"): "forward pass",
    ("training/averaging.py", "Averaging.finish"): "all-reduce of gradients",
    ("training/trainer.py", "Trainer._log_step"): "statistics of the step",
    ("training/trainer.py", "Trainer.evaluate"): "evaluation",
    ("training/trainer.py", "Trainer.save"): "checkpoint",
    ("training/trainer.py", "Trainer._train_step"): "training step",
    ("training/watchdog.py", "watched"): "end of the run",
}
"""(file of the package, function): what a rank does there; the innermost on a stack counts."""
WORKERS = {
    ("training/checkpoint.py", "Checkpointer.wait"): "checkpoint",
    ("data/ahead.py", "made_ahead"): "batches",
}
"""Functions that wait for a thread of their own process, and how the names of such threads begin."""


@dataclass(frozen=True, kw_only=True)
class Doing:
    """What a process was seen at."""

    what: str
    waits: bool
    """Whether for other ranks."""
    stack: str
    """Of the main thread, of one that it waits for, and of every other that is in this package."""


def look(main: int) -> Doing:
    """At all threads of this process but the caller.

    Args:
        main: identifier of the thread that counts.
    """
    frames = sys._current_frames()
    # This very frame is among them. Held by itself it would live on, and with it all that the others held.
    del frames[threading.get_ident()]
    frame = frames.get(main)
    what, waits = describe(frame)
    threads = {thread.ident: thread.name for thread in threading.enumerate() if thread.ident is not None}
    begin, followed = _waits_for_thread(frame), None
    for ident, name in threads.items():
        if begin is not None and name.startswith(begin) and ident != main:
            # What the other thread is held up by holds up this one.
            followed = ident
            what, waits = describe(frames.get(ident))
            what = f"{what}, in thread {name}"
    shown = [_stack(frame, "the main thread")] if frame is not None else []
    for ident, other in frames.items():
        if ident != main and (ident == followed or _own(other)):
            shown.append(_stack(other, f"thread {threads.get(ident, ident)}"))
    return Doing(what=what, waits=waits, stack="\n".join(shown))


def describe(frame: FrameType | None) -> tuple[str, bool]:
    """(what a thread does, whether it waits for other ranks), by its stack."""
    collective, backward, own, phase = None, False, None, None
    while frame is not None:
        code, file = frame.f_code, frame.f_code.co_filename
        upstream = "torch/distributed/" in file or "torchrec/" in file
        if upstream and code.co_name in COLLECTIVES:
            # The outermost of them is what was called.
            collective = code.co_name
        elif upstream and code.co_name == "wait" and collective is None:
            collective = _awaited(frame.f_locals.get("self"))
        backward = backward or code.co_name == BACKWARD
        name = _in_package(code)
        if name == EXCHANGE and collective is None:
            collective = frame.f_locals["self"].name
        elif name is not None:
            own = own or f"{name[0]}:{frame.f_lineno} ({code.co_name})"
            phase = phase or PHASES.get(name)
        frame = frame.f_back
    where = f" at {own}" if own is not None else ""
    told = f"{phase}: " if phase is not None else ""
    if collective is not None:
        return f"{told}waits in {collective}{' of the backward pass' if backward else ''}{where}", True
    if backward:
        return f"{told}is in the backward pass{where}", False
    return f"{told}is{where or ' outside of easq-rec'}", False


def _awaited(awaitable: object) -> str:
    """TorchRec's name of an exchange that is under way, such as All2All_Pooled_Wait."""
    # As it lies there: reading any other attribute of a lazy one has this thread wait as well, in the other's place.
    function = inspect.getattr_static(awaitable, "wait_function", None)
    return str(getattr(function, "__name__", type(awaitable).__name__))


def _waits_for_thread(frame: FrameType | None) -> str | None:
    """How the name of the thread begins that this one waits for; None: for none, as far as is known."""
    while frame is not None:
        name = _in_package(frame.f_code)
        if name is not None:
            return WORKERS.get(name)
        frame = frame.f_back
    return None


def _own(frame: FrameType | None) -> bool:
    while frame is not None:
        if _in_package(frame.f_code) is not None:
            return True
        frame = frame.f_back
    return False


def _in_package(code: CodeType) -> tuple[str, str] | None:
    """(file, function) of code of this package."""
    begin = f"{PACKAGE}/"
    return (code.co_filename.removeprefix(begin), code.co_qualname) if code.co_filename.startswith(begin) else None


def _stack(frame: FrameType, name: str) -> str:
    return f"{name}:\n{''.join(traceback.format_stack(frame)).rstrip()}"
