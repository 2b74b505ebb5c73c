"""What runs on the loop is heard of where it is waited for, and ends in order."""

import asyncio
import concurrent.futures
import subprocess
import sys
import threading

import pytest

from zowarmup.api.background import BackgroundTask, loop, now


def test_a_result_and_an_error_come_to_whoever_waits() -> None:
    async def fine() -> str:
        return threading.current_thread().name

    async def faulty() -> None:
        raise KeyError("lost")

    assert now(fine()) == "zowarmup"
    with pytest.raises(KeyError, match="lost"):
        now(faulty())
    task = BackgroundTask(faulty())
    with pytest.raises(KeyError):
        task.wait(10)
    assert task.done and isinstance(task.error, KeyError)


def test_a_callers_own_loop_makes_no_difference() -> None:
    async def outer() -> int:
        async def inner() -> int:
            await asyncio.sleep(0)
            return 7

        return now(inner())

    assert asyncio.run(outer()) == 7
    assert loop().is_running()


def test_an_end_is_asked_for_and_then_made() -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def endless() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = BackgroundTask(endless())
    assert began.wait(10)
    with pytest.raises(TimeoutError):
        task.wait(0.01)
    task.end()
    assert cancelled.is_set() and task.done and task.error is None
    with pytest.raises(concurrent.futures.CancelledError):
        task.wait()
    asked = threading.Event()
    stubborn = BackgroundTask(endless(), asked.set)
    stubborn.end(0.05)
    assert asked.is_set() and stubborn.done


def test_a_process_ends_with_what_still_runs_and_says_so_by_its_own_code() -> None:
    code = (
        "import asyncio\nfrom zowarmup.api.background import BackgroundTask\n"
        "async def endless():\n    try:\n        await asyncio.Event().wait()\n    finally:\n        print('left in order')\n"
        "task = BackgroundTask(endless())\nwhile not task._task: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left in order\n", "")
