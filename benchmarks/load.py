"""A service under load: latency, throughput, memory, and whether the history has what was answered exactly once.

    python benchmarks/load.py DATA [--seconds 120] [--clients 4] [--database URL]
    python benchmarks/load.py DATA --kill 10 [--seconds 60]

Fits the default on the data set's good images (or takes --model), measures one image alone and a folder in this
process, then starts `goodparts serve` and hands it the data set's test images: first from one client, then from
several at a time. With --kill the service is killed (SIGKILL) so many times during the load and started again;
`--restart-command` is run as often beside it, such as one that kills and restarts PostgreSQL. Prints a table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from goodparts import Inspector, Recipe, parallel, read_dataset
from goodparts.data.images import read_image

GOODPARTS = (sys.executable, "-m", "goodparts")
TOKEN = re.compile(r"gp_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--database")
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--restart-command", help="run at each kill, in a shell")
    parser.add_argument("--port", type=int, help="[default: one that is free]")
    options = parser.parse_args()
    files = [sample.path for sample in read_dataset(options.data).test]
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None:
            model = Inspector(Recipe()).fit(options.data).save(Path(folder) / "part.goodparts")
        alone = None if options.kill else measure_alone(model, files)
        service = Service(model, Path(folder) / "history", options.database, options.port or free_port())
        images = [path.read_bytes() for path in files]
        try:
            service.start()
            if alone is None:
                killed(service, images, options)
            else:
                loaded(service, images, options, alone)
        finally:
            service.stop()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Alone:
    """What this process measures without a service: milliseconds, images a second, and ms of a core an image."""

    decode: float
    inspect: float
    file: float
    folder: float
    work: float


def measure_alone(model: Path, files: list[Path]) -> Alone:
    """One image alone, as benchmarks/latency.py has it, and a folder as `inspect` takes it."""
    inspector = Inspector.load(model)
    some = files[:40]
    inspector.inspect(some[0])
    decode, inspect, file = [], [], []
    for path in some:
        began = time.perf_counter()
        pixels = read_image(path)
        middle = time.perf_counter()
        with parallel.small_products():
            inspector.inspect_pixels(pixels)
        end = time.perf_counter()
        decode.append(middle - began)
        inspect.append(end - middle)
        file.append(end - began)
    rates, work = [], []
    for _ in range(4):
        began, worked = time.perf_counter(), time.process_time()
        for _ in inspector.inspect_many(some):
            pass
        rates.append(len(some) / (time.perf_counter() - began))
        work.append((time.process_time() - worked) / len(some))
    times = (1000 * statistics.median(one) for one in (decode, inspect, file))
    return Alone(*times, statistics.median(rates[1:]), 1000 * statistics.median(work[1:]))


class Service:
    """`goodparts serve` as a process of its own."""

    def __init__(self, model: Path, folder: Path, database: str | None, port: int) -> None:
        self.model, self.folder, self.database, self.port = model, folder, database, port
        self.name, self.token = model.stem, ""

    def start(self) -> None:
        """Start it and wait until it is ready."""
        place = ["--database", self.database] if self.database else []
        port = ["--port", str(self.port), "--least-free", "0"]
        command = [*GOODPARTS, "serve", str(self.model), "--data", str(self.folder), *port, *place]
        with (self.folder.parent / "log").open("a") as log:
            self.process = subprocess.Popen(command, stderr=log)
        self.wait()
        if not self.token:
            found = TOKEN.search((self.folder.parent / "log").read_text())
            assert found is not None
            self.token = found[0]

    def wait(self) -> None:
        """Wait until it says that it is ready."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit((self.folder.parent / "log").read_text()[-3000:])
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit("the service is not ready after a minute")

    def ask(self, method: str, place: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, place, headers={"Authorization": f"Bearer {self.token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(90)

    def history(self) -> Counter[str]:
        """How often each inspection is in the history, page by page."""
        found: Counter[str] = Counter()
        place = "/api/v1/inspections?limit=200"
        while place:
            page = json.loads(self.ask("GET", place)[1])
            found.update(row["id"] for row in page["items"])
            place = page["next"]
        return found

    def verify(self) -> str:
        """What `goodparts server audit verify --files` says."""
        place = ["--database", self.database] if self.database else []
        ran = subprocess.run(
            [
                sys.executable,
                "-m",
                "goodparts",
                "server",
                "audit",
                "verify",
                "--files",
                "--data",
                str(self.folder),
                *place,
            ],
            capture_output=True,
            text=True,
        )
        return f"exit code {ran.returncode}: {(ran.stdout or ran.stderr).splitlines()[0]}"


@dataclass
class Load:
    """What clients saw."""

    seconds: list[float] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0


def put_load(
    service: Service, images: list[bytes], clients: int, stop: threading.Event, found: list[Load]
) -> Load:
    """Hand in images from so many clients, each as soon as its last one is answered, until told to stop."""
    load, lock = Load(), threading.Lock()
    place = f"/api/v1/models/{urllib.parse.quote(service.name)}/inspections"
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "image/png"}

    def run(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        index = number * 17
        while not stop.is_set():
            index += 1
            began = time.perf_counter()
            try:
                connection.request("POST", place, images[index % len(images)], headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                with lock:
                    load.broken += 1
                time.sleep(0.1)
                continue
            took = time.perf_counter() - began
            with lock:
                load.statuses[answer.status] += 1
                if answer.status == 200:
                    load.seconds.append(took)
                    load.answered.append(json.loads(body)["id"])
            if answer.status == 503:
                time.sleep(0.2)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
    found.append(load)
    return load


def loaded(service: Service, images: list[bytes], options: argparse.Namespace, alone: Alone) -> None:
    one = timed(service, images, 1, min(20.0, options.seconds))[0]
    timed(service, images, options.clients, 10)  # to warm up
    process, own = psutil.Process(service.process.pid), psutil.Process()
    before = (sum(process.cpu_times()[:2]), sum(own.cpu_times()[:2]))
    load, memory = timed(service, images, options.clients, options.seconds)
    after = (sum(process.cpu_times()[:2]), sum(own.cpu_times()[:2]))
    work, clients = (
        1000 * (end - start) / len(load.seconds) for start, end in zip(before, after, strict=True)
    )
    minute = min(60, len(memory) // 2)
    first, last = (statistics.mean(part) / 2**20 for part in (memory[:minute], memory[-minute:]))
    history = service.history()
    missing = [name for name in load.answered + one.answered if history[name] != 1]
    rate = len(load.seconds) / options.seconds
    quantiles = statistics.quantiles(load.seconds, n=100)
    single = 1000 * statistics.median(one.seconds)
    several = f"service, {options.clients} clients"
    rows = (
        ("one image alone: decoding", f"{alone.decode:.1f} ms"),
        ("one image alone: decoded array to verdict", f"{alone.inspect:.1f} ms"),
        ("one file alone", f"{alone.file:.1f} ms"),
        ("service, 1 client: p50", f"{single:.1f} ms = {single / alone.file:.2f} x one file alone"),
        ("folder, `inspect`", f"{alone.folder:.1f} images/s"),
        (several, f"{rate:.1f} images/s = {rate / alone.folder:.2f} x the folder"),
        (f"{several}: p50, p95, p99", ", ".join(f"{1000 * quantiles[i]:.0f} ms" for i in (49, 94, 98))),
        (
            "work an image, in ms of a core: folder, service, clients",
            f"{alone.work:.1f}, {work:.1f}, {clients:.1f}",
        ),
        ("statuses, broken connections", f"{dict(load.statuses)}, {load.broken}"),
        ("memory, first minute and last", f"{first:.0f}, {last:.0f} MiB: {100 * (last / first - 1):+.1f} %"),
        (
            "answered, of these not once in the history",
            f"{len(load.answered + one.answered)}, {len(missing)}",
        ),
        ("audit chain", service.verify()),
    )
    print_table(rows)


def timed(service: Service, images: list[bytes], clients: int, seconds: float) -> tuple[Load, list[int]]:
    """Load for so long, and the memory of the service each second."""
    stop, memory, process = threading.Event(), [], psutil.Process(service.process.pid)

    def watch() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            memory.append(process.memory_info().rss)
            time.sleep(1)
        stop.set()

    watching = threading.Thread(target=watch)
    watching.start()
    load = put_load(service, images, clients, stop, [])
    watching.join()
    return load, memory


def killed(service: Service, images: list[bytes], options: argparse.Namespace) -> None:
    """Kill it again and again during the load; after each start nothing that was answered may be missing."""
    answered: list[str] = []
    rows = []
    every = options.seconds / options.kill
    for number in range(1, options.kill + 1):
        stop = threading.Event()
        found: list[Load] = []
        thread = threading.Thread(target=put_load, args=(service, images, options.clients, stop, found))
        thread.start()
        time.sleep(every)
        if options.restart_command:
            subprocess.run(options.restart_command, shell=True, check=True)
            service.wait()
            time.sleep(1)  # of load on what was started again
        else:
            os.kill(service.process.pid, signal.SIGKILL)
            service.process.wait()
        stop.set()
        thread.join()
        if not options.restart_command:
            service.start()
        (load,) = found
        answered += load.answered
        history = service.history()
        missing = sum(history[name] != 1 for name in answered)
        last = [f"/api/v1/inspections/{name}/image" for name in load.answered[-8:]]
        halves = sum(service.ask("GET", place)[0] != 200 for place in last)
        words = (
            f"{len(load.answered)} answered, {dict(load.statuses)}; of all not once in the history: {missing}"
        )
        rows.append((str(number), f"{words}; files not whole: {halves}; {service.verify()}"))
        print(*rows[-1], flush=True)
    print_table(rows)


def print_table(rows: object) -> None:
    print("\n| | |\n|---|---|")
    for name, value in rows:  # type: ignore[attr-defined]
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
