"""Images of any format into files that are trained on without being held in memory.

python jobs/prepare_data.py /data/imagenet data/imagenet
python jobs/prepare_data.py inspect data/imagenet
python jobs/prepare_data.py 1m.npz data/cifar10-1m --classes airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck
"""

import sys

from afa_dist.cli.preparing import main

if __name__ == "__main__":
    sys.exit(main("prepare_data.py", "Prepare images of any format for training: Arrow or Parquet files, written once."))
