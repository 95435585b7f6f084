"""``python -m vconv.benchmarks`` measures speed and memory."""

from vconv.benchmarks.speed import main

if __name__ == "__main__":
    main()
