"""``python -m vconv`` is ``vconv``."""

from vconv.cli import main

if __name__ == "__main__":
    main()
