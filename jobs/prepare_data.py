"""Images from other formats into the Parquet files that are trained on.

python jobs/prepare_data.py 1m.npz data/cifar10-1m --classes airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck
"""

import sys

from afa_dist.cli.preparing import main

if __name__ == "__main__":
    sys.exit(main("prepare_data.py", "Convert a set of images into Parquet files."))
