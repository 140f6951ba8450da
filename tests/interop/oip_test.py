"""The Open Inference Protocol as tritonclient speaks it."""
import queue

import numpy as np
import pytest
import tritonclient.grpc as triton

from conftest import DECODER, ENCODER

UNKNOWN = "absent-model"


@pytest.fixture(scope="module")
def client(server):
    server.client.load_model(DECODER)
    server.client.load_model(ENCODER)
    yield server.client
    server.client.unload_model(ENCODER)
    server.client.unload_model(DECODER)


def ids_input(ids, name="input_ids"):
    tensor = triton.InferInput(name, list(ids.shape), "INT64")
    tensor.set_data_from_numpy(ids.astype(np.int64))
    return tensor


def text_input(*texts):
    tensor = triton.InferInput("text_input", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([t.encode() for t in texts], dtype=np.object_))
    return tensor


def status_of(call, *arguments, **options):
    with pytest.raises(triton.InferenceServerException) as error:
        call(*arguments, **options)
    return error.value.status(), error.value.message()


def test_server(client):
    assert client.is_server_live() and client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "quantd" and metadata.version
    assert {"model_repository", "statistics", "binary_tensor_data"} <= set(metadata.extensions)


def test_model_metadata_and_config(client):
    assert client.is_model_ready(DECODER) and not client.is_model_ready(UNKNOWN)
    metadata = client.get_model_metadata(DECODER)
    assert {t.name for t in metadata.inputs} >= {"input_ids", "attention_mask", "text_input"}
    assert [t.name for t in metadata.outputs] == ["logits", "text_output"]
    config = client.get_model_config(DECODER).config
    assert config.model_transaction_policy.decoupled
    assert {i.name for i in config.input} == {t.name for t in metadata.inputs}
    status, message = status_of(client.get_model_metadata, UNKNOWN)
    assert status == "StatusCode.NOT_FOUND" and message.startswith("Request for unknown model")


def test_repository(client):
    index = {m.name: m.state for m in client.get_model_repository_index().models}
    assert index[DECODER] == index[ENCODER] == "READY"
    client.unload_model(ENCODER)
    index = {m.name: m.state for m in client.get_model_repository_index().models}
    assert index[ENCODER] == "UNAVAILABLE"
    status, _ = status_of(client.infer, ENCODER, [text_input("x")])
    assert status == "StatusCode.UNAVAILABLE"
    client.load_model(ENCODER)
    assert client.is_model_ready(ENCODER)
    assert status_of(client.load_model, UNKNOWN)[0] == "StatusCode.NOT_FOUND"


def test_logits(client):
    ids = np.array([[1, 20, 300], [4, 50, 600]])
    result = client.infer(DECODER, [ids_input(ids)], request_id="a1")
    logits = result.as_numpy("logits")
    assert logits.shape[:2] == ids.shape and logits.dtype == np.float32 and np.isfinite(logits).all()
    assert result.get_response().id == "a1" and result.get_response().model_version == "1"
    alone = client.infer(DECODER, [ids_input(ids[1:])]).as_numpy("logits")
    np.testing.assert_allclose(alone[0], logits[1], rtol=1e-3, atol=1e-3)


def test_padding(client):
    """A padded row's logits are those of the row alone; masked positions on the left give zeros."""
    ids = np.array([[0, 0, 20, 300], [1, 20, 300, 0]])
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 0]])
    logits = client.infer(DECODER, [ids_input(ids), ids_input(mask, "attention_mask")]).as_numpy("logits")
    for row, tokens, at in ((0, [20, 300], slice(2, 4)), (1, [1, 20, 300], slice(0, 3))):
        alone = client.infer(DECODER, [ids_input(np.array([tokens]))]).as_numpy("logits")[0]
        np.testing.assert_allclose(logits[row, at], alone, rtol=1e-3, atol=1e-3)
    assert not logits[0, :2].any()
    hole = ids_input(np.array([[1, 0, 1, 1], [1, 1, 1, 1]]), "attention_mask")
    assert status_of(client.infer, DECODER, [ids_input(ids), hole])[0] == "StatusCode.UNIMPLEMENTED"


def test_classification(client):
    ids = np.array([[1, 20, 300]])
    logits = client.infer(DECODER, [ids_input(ids)]).as_numpy("logits")
    output = triton.InferRequestedOutput("logits", class_count=2)
    classes = client.infer(DECODER, [ids_input(ids)], outputs=[output]).as_numpy("logits")
    assert classes.shape == (1, 3, 2)
    assert int(classes[0, -1, 0].decode().split(":")[1]) == logits[0, -1].argmax()


def test_text(client):
    options = {"max_tokens": 8, "temperature": 0.0}
    once = client.infer(DECODER, [text_input("The miller knew")], parameters=options).as_numpy("text_output")
    assert once.shape == (1,) and len(once[0]) > 0
    both = client.infer(DECODER, [text_input("The miller knew", "One two three")], parameters=options).as_numpy("text_output")
    assert both.shape == (2,) and both[0] == once[0]


def test_encoder(client):
    result = client.infer(ENCODER, [text_input("A cat sleeps.", "Revenue rose by four percent this year.")])
    hidden, sentence = result.as_numpy("last_hidden_state"), result.as_numpy("sentence_embedding")
    assert hidden.shape[0] == 2 and sentence.shape == (2, hidden.shape[2])
    np.testing.assert_allclose(np.linalg.norm(sentence, axis=1), 1, rtol=1e-4)
    only = client.infer(ENCODER, [text_input("A cat sleeps.")], outputs=[triton.InferRequestedOutput("sentence_embedding")])
    assert only.as_numpy("last_hidden_state") is None


def test_bad_requests(client):
    good = ids_input(np.array([[1, 2]]))
    wrong_name = triton.InferInput("tokens", [1, 2], "INT64")
    wrong_name.set_data_from_numpy(np.array([[1, 2]]))
    wrong_type = triton.InferInput("input_ids", [1, 2], "FP32")
    wrong_type.set_data_from_numpy(np.zeros((1, 2), np.float32))
    cases = [([wrong_name], {}), ([wrong_type], {}), ([ids_input(np.array([[1, -5]]))], {}), ([ids_input(np.array([1, 2]))], {}),
             ([good], {"outputs": [triton.InferRequestedOutput("nonsense")]}), ([good], {"parameters": {"nonsense": 1}}),
             ([text_input("x")], {"parameters": {"temperature": -1.0}}), ([text_input("x")], {"parameters": {"max_tokens": "many"}}),
             ([text_input("")], {})]
    for inputs, options in cases:
        status, message = status_of(client.infer, DECODER, inputs, **options)
        assert status == "StatusCode.INVALID_ARGUMENT", message
    assert status_of(client.infer, UNKNOWN, [good])[0] == "StatusCode.NOT_FOUND"
    assert client.infer(DECODER, [good]).as_numpy("logits") is not None


def stream(client, requests):
    """Texts, final flags and errors by request id."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for model, request_id, inputs, options in requests:
        client.async_stream_infer(model, inputs, request_id=request_id, **options)
    texts, finals, errors = {}, {}, []
    while len(finals) + len(errors) < len(requests):
        result, error = answers.get(timeout=60)
        if error is not None:
            errors.append(str(error))
            continue
        response = result.get_response()
        assert response.id not in finals
        texts[response.id] = texts.get(response.id, b"") + result.as_numpy("text_output")[0]
        if response.parameters["triton_final_response"].bool_param:
            finals[response.id] = True
    client.stop_stream()
    return texts, errors


def test_stream_of_two_and_an_error(client):
    options = {"parameters": {"max_tokens": 8}}
    prompts = {"s1": "The miller knew", "s2": "One two three"}
    whole = {key: client.infer(DECODER, [text_input(p)], **options).as_numpy("text_output")[0] for key, p in prompts.items()}
    requests = [(DECODER, key, [text_input(p)], options) for key, p in prompts.items()]
    texts, errors = stream(client, requests + [(UNKNOWN, "s3", [text_input("x")], options)])
    assert texts == whole and len(errors) == 1 and UNKNOWN in errors[0]


def test_cancelled_stream(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(DECODER, [text_input("Once upon a time")], request_id="c", parameters={"max_tokens": 2000, "ignore_eos": True})
    answers.get(timeout=60)
    client.stop_stream(cancel_requests=True)
    assert client.infer(DECODER, [ids_input(np.array([[1]]))]).as_numpy("logits") is not None


def test_statistics(client):
    before = client.get_inference_statistics(DECODER).model_stats[0]
    client.infer(DECODER, [ids_input(np.array([[1, 2], [3, 4]]))])
    after = client.get_inference_statistics(DECODER).model_stats[0]
    assert after.inference_count == before.inference_count + 2
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns


def test_log_settings(client):
    settings = client.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]
    assert settings["log_verbose_level"]["uint32_param"] == 1
    client.update_log_settings({"log_verbose_level": 0})
    assert status_of(client.update_log_settings, {"nonsense": True})[0] == "StatusCode.INVALID_ARGUMENT"


def test_absent_features_are_unimplemented(client):
    assert status_of(client.get_system_shared_memory_status)[0] == "StatusCode.UNIMPLEMENTED"
