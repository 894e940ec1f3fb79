"""Flags of runs of seconds on the reference recordings."""

from support.paths import REFERENCE, ROOT

RAW = REFERENCE / "raw_etram"
PREPROCESSED = REFERENCE / "preprocessed_etram"
TINY = ["--config", str(ROOT / "configs" / "size_aware.yaml")]
TINY += """
    --model.embed_dim 8 --model.dim_head 4 --model.fpn_depth 0.33
    --data.num_workers 0 --data.train_lanes 2
    --trainer.max_steps 4 --trainer.val_check_interval 4
    --trainer.num_sanity_val_steps 0 --trainer.log_every_n_steps 1 --trainer.accelerator cpu
    --results.video_s 0 --results.report false
""".split()
SMALL_RAW = [*TINY, "--data.root", str(RAW), "--data.input_size", "[90, 160]"]
