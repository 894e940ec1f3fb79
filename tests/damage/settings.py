"""Settings in YAML that are none, would run code or have the wrong types."""

import copy
import os

import numpy as np
import yaml

from damage.cases import CASES, ROOT, RVT_CHECKPOINT, cases, fit

TOUCH = "class_path: subprocess.Popen\n    init_args: {args: [touch, $CANARY]}\n"
YAMLS = {
    "empty": "",
    "a list": "- 1\n- 2\n",
    "a number": "5\n",
    "text": "just words\n",
    "not closed": "model: {embed_dim: 8\n",
    "tabs": "model:\n\tembed_dim: 8\n",
    "nul": "model:\0 5\n",
    "runs code": "model: !!python/object/apply:os.system ['touch $CANARY']\n",
    "makes an object": "trainer: !!python/object:pathlib.Path {}\n",
    "names a function": "data: !!python/name:os.system\n",
    "names a module": "data: !!python/module:antigravity\n",
    "unknown tag": "data: !thing {}\n",
    "binary tag": "model:\n  embed_dim: !!binary aGVsbG8=\n",
    "duplicate": "model:\n  embed_dim: 8\nmodel: 5\n",
    "unknown anchor": "model: *m\n",
    "model a number": "model: 5\n",
    "model none": "model: null\n",
    "model none beside others": "model: null\ndata: {bins: 10}\n",
    "data a list": "data: [1]\n",
    "trainer text": "trainer: fast\n",
    "loss no loss": f"model:\n  loss:\n    {TOUCH}",
    "loss a function": "model:\n  loss:\n    class_path: os.system\n",
    "loss unknown": "model:\n  loss:\n    class_path: nowhere.Loss\n",
    "loss of numbers": "model:\n  loss:\n    class_path: [1]\n",
    "callback no callback": f"trainer:\n  callbacks:\n  - {TOUCH}",
    "logger no logger": "trainer:\n  logger:\n    class_path: builtins.exec\n",
    "seed a list": "seed_everything: [1]\n",
    "seed text": "seed_everything: many\n",
    "seed huge": "seed_everything: 100000000000000000000\n",
    "embed_dim a mapping": "model:\n  embed_dim: {a: 1}\n",
    "embed_dim infinite": "model:\n  embed_dim: .inf\n",
    "embed_dim zero": "model:\n  embed_dim: 0\n",
    "stages text": "model:\n  fpn_stages: all\n",
    "learning rate nan": "model:\n  learning_rate: .nan\n",
    "learning rate negative": "model:\n  learning_rate: -1.0\n",
    "warmup 2": "model:\n  warmup_share: 2.0\n",
    "size_bins": "model:\n  size_bins: {small: [a, b]}\n",
    "size_bins none": "model:\n  size_bins: {small: null}\n",
    "class_groups": "model:\n  class_groups: {a: 5}\n",
    "class_names": "data:\n  class_names: 7\n",
    "class_names empty": "data:\n  class_names: []\n",
    "input_size huge": "data:\n  input_size: [1000000000, 1000000000]\n",
    "input_size of three": "data:\n  input_size: [1, 2, 3]\n",
    "input_size text": "data:\n  input_size: wide\n",
    "bins zero": "data:\n  bins: 0\n",
    "bins a fraction": "data:\n  bins: 1.5\n",
    "window_ms negative": "data:\n  window_ms: -50\n",
    "window_ms huge": "data:\n  window_ms: 99999999999999999999\n",
    "workers negative": "data:\n  num_workers: -1\n",
    "root a number": "data:\n  root: 5\n",
    "root a mapping": "data:\n  root: {a: b}\n",
    "filters": "data:\n  filters: [5]\n",
    "subset": "data:\n  subset: -3\n",
    "on_unreadable_recording": "data:\n  on_unreadable_recording: maybe\n",
    "steps text": "trainer:\n  max_steps: some\n",
    "steps minus 7": "trainer:\n  max_steps: -7\n",
    "precision": "trainer:\n  precision: 7\n",
    "devices": "trainer:\n  devices: -3\n",
    "accelerator": "trainer:\n  accelerator: quantum\n",
    "strategy": "trainer:\n  strategy: chess\n",
    "interval": "trainer:\n  val_check_interval: -1\n",
    "clip": "trainer:\n  gradient_clip_algorithm: scissors\n",
    "accumulate": "trainer:\n  accumulate_grad_batches: 0\n",
    "checkpoint mode": "checkpoint:\n  mode: best\n",
    "checkpoint top": "checkpoint:\n  save_top_k: -5\n",
    "non-finite steps": "non_finite_steps:\n  most_in_a_row: none\n",
    "long line": "model: {embed_dim: " + "9" * 100_000 + "}\n",
    "strange letters": "mödel: {ümbed: 8}\n",
}  # fmt: skip


@cases(**YAMLS)
def settings(folder, text):
    path = folder / "settings.yaml"
    path.write_text(text.replace("$CANARY", os.environ["CANARY"]), encoding="utf-8")
    return fit(folder, "--config", str(path))


@cases(
    noise=lambda rng: rng.bytes(2000),
    not_utf8=lambda rng: b"model: \xff\xfe\n",
    a_checkpoint=lambda rng: RVT_CHECKPOINT.read_bytes(),
)
def settings_of_bytes(folder, make):
    path = folder / "settings.yaml"
    path.write_bytes(make(np.random.default_rng(7)))
    return fit(folder, "--config", str(path))


def _changed_config(seed):
    def damage(folder):
        """One value of a configuration takes another's type."""
        rng = np.random.default_rng(seed)
        config = yaml.safe_load((ROOT / "configs" / "baseline.yaml").read_text())
        del config["data"]["class_names"]
        del config["data"]["root"]  # without one, traffic would be simulated
        part = ["data", "model", "trainer"][seed % 3]
        name = sorted(config[part])[int(rng.integers(len(config[part])))]
        values = [None, [], {}, "text", -1, 0, 1e30, True, [[1]], {"a": {"b": []}}, 2**70]
        value = copy.deepcopy(values[int(rng.integers(len(values)))])
        path = folder / "settings.yaml"
        path.write_text(yaml.safe_dump({part: {name: value}}))
        return fit(folder, "--config", str(path))

    return damage


CASES |= {f"settings changed by seed {seed}": _changed_config(seed) for seed in range(24)}
