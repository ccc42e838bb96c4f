"""Empties the cache of what VMs fetched and built (the setting cache_dir): removes its archives, and no other file.

So goes the image of Ubuntu that tools/box.py keeps for the next box.
"""

import doctor


def main() -> None:
    settings = doctor.look_at_settings()[0]
    files = [*doctor.cached(settings), *doctor.CACHE.glob("ubuntu-*.img*")]
    freed = sum(file.stat().st_size for file in files)
    for file in files:
        file.unlink()
    print(f"{settings['cache_dir'] or 'The cache'} is empty now: {freed / 1e6:.0f} MB were freed.")


if __name__ == "__main__":
    main()
