"""`python -m pd_autoscaler` is `pd-autoscaler`."""

from pd_autoscaler.cli import main

if __name__ == "__main__":
    main()
