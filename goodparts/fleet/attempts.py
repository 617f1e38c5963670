"""Jobs whose workers may die: tried again, and again in parts, until what is to blame is found and set aside."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TypeGuard

from goodparts.errors import GoodpartsError
from goodparts.fleet.shard import TRIES, Shard, inspect_shard, set_aside, text_of
from goodparts.scale.executor import Executor, Job, WorkerDiedError
from goodparts.version import __version__

JOB_TRIES = 3
"""How often a job is tried whose worker dies: a fit takes long, and some of many lose their worker more than once."""

Died = Callable[[str, Exception], object]
"""Called with (what a job was about, how it ended) for every job that did not end well."""


def inspect_shards(
    executor: Executor, shards: Sequence[Shard], died: Died
) -> Generator[tuple[Shard, str | GoodpartsError], None, None]:
    """Yield shards with what their files are to hold, as they are finished.

    A shard whose worker dies is tried once more, then each of its images by itself, each twice. So an image that ends
    its worker is set aside, and the others of its shard are not.

    A GoodpartsError is yielded in the place of a text where a model can't be used.
    """
    whole: Sequence[Shard] = shards
    for attempt in range(1, TRIES + 1):
        whole = yield from _attempt(executor, whole, died, attempt == TRIES)
    single = [shard.only(index) for shard in whole for index in range(len(shard.images))]
    for attempt in range(1, TRIES + 1):
        single = yield from _attempt(executor, single, died, attempt == TRIES)


def _attempt(
    executor: Executor, shards: Sequence[Shard], died: Died, last: bool
) -> Generator[tuple[Shard, str | GoodpartsError], None, list[Shard]]:
    """Try shards once; those whose workers died are returned. In the last attempt a single image is set aside."""
    dead = []
    by_name = {shard.name: shard for shard in shards}
    jobs = [
        Job(
            name,
            partial(inspect_shard, shard, executor.workers, __version__),
            shard.memory,
            affinity=shard.product,
        )
        for name, shard in by_name.items()
    ]
    with closing(executor.run(jobs)) as finished:
        for job, found in finished:
            shard = by_name[job.name]
            if _is_answer(found):
                yield shard, found
            else:
                assert isinstance(found, Exception)
                died(f"{len(shard.images)} images of {shard.product}", found)
                if last and len(shard.images) == 1:
                    (image,) = shard.images
                    error = f"{image.where}: inspecting it ended its worker, twice: {in_words(found)}"
                    yield shard, text_of(shard, [set_aside(image, shard.identity, error)], 0, 0)
                else:
                    dead.append(shard)
    return dead


def run_again(
    executor: Executor, jobs: Sequence[Job[str]], died: Died
) -> Generator[tuple[Job[str], str | Exception], None, None]:
    """Yield jobs with their results as they are finished; one whose worker dies is tried again, `JOB_TRIES` in all."""
    left = list(jobs)
    for attempt in range(1, JOB_TRIES + 1):
        dead = []
        with closing(executor.run(left)) as finished:
            for job, found in finished:
                if _is_answer(found):
                    yield job, found
                    continue
                assert isinstance(found, Exception)
                died(job.name, found)
                if attempt == JOB_TRIES:
                    yield job, found
                else:
                    dead.append(job)
        left = dead


def _is_answer(found: object) -> TypeGuard[str | GoodpartsError]:
    """Whether it is a result, or an error that would come again."""
    return isinstance(found, str) or (
        isinstance(found, GoodpartsError) and not isinstance(found, WorkerDiedError)
    )


def require_version(version: str) -> None:
    """In a worker: GoodpartsError where this is another version of goodparts than the one that asks."""
    if version != __version__:
        raise GoodpartsError(
            f"a worker has goodparts {__version__}, and {version} asks; install the same version on all machines"
        )


def in_words(error: Exception) -> str:
    """An error as it is told: a user's with its own words, another with its kind."""
    return str(error) if isinstance(error, GoodpartsError) else repr(error)
