"""What this machine is: packages, CANN, NPUs, host and surroundings, and what to do about what is wrong."""
