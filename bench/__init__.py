"""What the speed claims rest on: `make bench`. One module a table row or group, each figure beside peers' or a floor's.

Times are seconds, memory is bytes, until they are printed.
"""
