"""The study: does training with the new images help, against every control at equal optimiser steps?"""
