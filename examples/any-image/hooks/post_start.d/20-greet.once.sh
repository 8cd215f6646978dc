#!/bin/sh -e
# Run by the image's shell, or in an image without one by the bundle's.
echo "the first node of this database is up"
