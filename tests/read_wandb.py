"""Reads the log that an offline W&B run leaves, as `wandb sync` would.

The file is a LevelDB log (blocks of 32 KiB; chunks of crc, length, type) behind a 7-byte header, and its records are
protocol buffers that the wandb package defines.
"""

import json
import struct
import time

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7
FULL, FIRST, LAST = 1, 2, 4


def records(path):
    """Every record of a .wandb file."""
    data, at, parts = path.read_bytes(), HEADER, []
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # a block's tail too short for a chunk is padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        if kind == 0 or at + HEADER + length > len(data):  # padding, or still being written
            break
        parts.append(data[at + HEADER : at + HEADER + length])
        at += HEADER + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def offline_log(folder):
    """Return the log of a run folder's one offline run, which the client's background service completes after a while:
    its last record ends the run."""
    for _ in range(600):
        for path in folder.glob("wandb/offline-run-*/*.wandb"):
            begun = path.stat().st_size >= HEADER
            if begun and any(record.WhichOneof("record_type") == "exit" for record in records(path)):
                return path
        time.sleep(0.05)
    raise AssertionError(f"{folder}/wandb has no complete log")


def as_dict(items):
    """Items with (nested) keys and JSON values as one nested dictionary."""
    result = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = result
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return result


def history(path):
    """Every call of wandb.log as {key: value}."""
    return [as_dict(r.history.item) for r in records(path) if r.WhichOneof("record_type") == "history"]


def config(path):
    """The configuration that the run was started with, as {key: value}."""
    return next(as_dict(r.run.config.update) for r in records(path) if r.WhichOneof("record_type") == "run")


def metrics(path):
    """What the run says of its metrics: which of them is the x-axis of which."""
    return [r.metric for r in records(path) if r.WhichOneof("record_type") == "metric"]


def started(path):
    """What the run was started with: project, display_name, run_group, tags, notes, job_type, run_id, sweep_id."""
    return next(r.run for r in records(path) if r.WhichOneof("record_type") == "run")


def artifacts(path):
    """The artifacts that the run logs."""
    whole = [r.artifact for r in records(path) if r.WhichOneof("record_type") == "artifact"]
    requests = [r.request for r in records(path) if r.WhichOneof("record_type") == "request"]
    return whole + [each.log_artifact.artifact for each in requests if each.HasField("log_artifact")]
