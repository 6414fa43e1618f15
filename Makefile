# Two commands: make demo, make test. Both set everything up first; a second time that takes a second.
#
#   TORCH_SPEC   which PyTorch to install in the standalone environment (a version or the path of a wheel)
#   VERSIONS     of PyTorch for make test-matrix, e.g. VERSIONS='2.3.1 newest'
#   DEMO_ARGS    e.g. DEMO_ARGS='--duration 20'

SHELL := /bin/bash
TORCH_SPEC ?= torch==2.13.0
export TORCH_SPEC
ENV := source standalone/env.sh

.PHONY: demo test test-long test-matrix lint setup clean

demo: setup
	@$(ENV) && ros2 run offload_ros demo $(DEMO_ARGS)

test: lint
	@$(ENV) && scripts/retest -m 'not long'

test-long: lint
	@$(ENV) && pytest

# RRTO with older and newer PyTorch: downloads some GB per version, needs neither setup nor ROS.
test-matrix:
	@scripts/test_matrix $(VERSIONS)

lint: setup
	@$(ENV) && ruff format --check && ruff check && mypy

setup:
	@standalone/setup.sh

clean:
	rm -rf build install log standalone/.ws standalone/.venv demo_output .matrix
