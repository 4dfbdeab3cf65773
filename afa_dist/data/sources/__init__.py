"""What images can be prepared from: each kind of source gives labels at once, and images by the number of their row."""
