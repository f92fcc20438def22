#!/bin/sh
# Serves ${MODEL_BASE_PATH}/${MODEL_NAME}; more flags may follow, e.g. --model_config_file=/models/models.config.
# `exec`: the server is process 1 and receives the SIGTERM that asks it to drain.
exec tensorflow_model_server --port=8500 --rest_api_port=8501 \
    --model_name="${MODEL_NAME}" --model_base_path="${MODEL_BASE_PATH}/${MODEL_NAME}" "$@"
