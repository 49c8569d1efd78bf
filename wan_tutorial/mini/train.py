"""Train the scale model, stage by stage: `python -m wan_tutorial.mini.train STAGE --minutes M`."""
import argparse
from pathlib import Path
import torch
def main():
    p=argparse.ArgumentParser(); p.add_argument("stage"); p.add_argument("--minutes",type=float,default=30); p.add_argument("--folder",type=Path,default=Path("outputs/training")); p.add_argument("--compile",action="store_true")
    a=p.parse_args()
    if a.stage=="vae":
        from .train_vae import train_vae
        train_vae(a.folder, minutes=a.minutes, compile=a.compile)
    if a.stage=="text":
        from .train_text import train_text
        train_text(a.folder, minutes=a.minutes)
if __name__=="__main__": main()
