"""Where scans come from: each module yields FaceScan and nothing else."""
