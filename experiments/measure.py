"""`capsjax measure`, for those who work in a checkout."""

from capsjax.commands import run

if __name__ == "__main__":
    run("measure")
