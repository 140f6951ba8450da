// Long-running operations and tensor streams of the client.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/quantd/client.h"
#include "client/quantd/connection.h"
#include "client/quantd/request_text.h"

namespace quantd {
namespace {

using google::longrunning::Operation;
using quant::v1::QuantizeReport;

constexpr size_t kChunkBytes = size_t{1} << 20;

// Sends `tensor` as a spec and its chunks. False: the server has ended the call.
template <class Request, class Stream>
bool Send(Stream& stream, const TensorData& tensor) {
  Request request;
  *request.mutable_tensor() = tensor.spec;
  if (!stream.Write(request)) return false;
  for (size_t first = 0; first < tensor.bytes.size(); first += kChunkBytes) {
    request.set_data(tensor.bytes.substr(first, kChunkBytes));
    if (!stream.Write(request)) return false;
  }
  return true;
}

// Collects the server's side of a tensor stream.
template <class Stream>
QuantizedTensorData Receive(Stream& stream) {
  QuantizedTensorData result;
  quant::v1::TensorChunk chunk;
  while (stream.Read(&chunk)) {
    if (chunk.has_tensor()) {
      result.tensors.push_back({chunk.tensor(), ""});
    } else if (chunk.has_quantization_config()) {
      result.quantization_config = chunk.quantization_config();
      result.warnings.assign(chunk.warnings().begin(), chunk.warnings().end());
    } else if (!result.tensors.empty()) {
      result.tensors.back().bytes += chunk.data();
    }
  }
  return result;
}

// `first` and the tensors there, tensors back; `open(context)` starts the stream.
template <class Request, class Open>
absl::StatusOr<QuantizedTensorData> Exchange(
    const Link& link, const CallOptions& options,
    const std::shared_ptr<Cancellation::State>& cancellation, const Request& first,
    const std::vector<const TensorData*>& tensors, const Open& open) {
  if (absl::Status text = CheckText(first); !text.ok()) return text;
  for (const TensorData* tensor : tensors) {
    if (absl::Status text = CheckText(tensor->spec); !text.ok()) return text;
  }
  Attempts attempts(link, options, cancellation);
  while (true) {
    Call call(link.options, attempts.Rest(), cancellation);
    const auto stream = open(call.context());
    bool sending = stream->Write(first);
    for (const TensorData* tensor : tensors) sending = sending && Send<Request>(*stream, *tensor);
    stream->WritesDone();
    QuantizedTensorData result = Receive(*stream);
    absl::Status status = FromGrpc(stream->Finish());
    if (status.ok()) return result;
    if (!attempts.Again(status)) return status;
  }
}

// Whoever stops waiting by cancelling or by a deadline does not want the result any more.
bool GaveUp(const absl::Status& status) {
  return absl::IsCancelled(status) || absl::IsDeadlineExceeded(status);
}
const CallOptions kLastWord = {.timeout = absl::Seconds(5)};

}  // namespace

absl::StatusOr<Operation> Client::Watch(const std::string& operation,
                                        const std::function<void(const Operation&)>& on_change,
                                        const CallOptions& options) {
  quant::v1::WatchOperationRequest request;
  request.set_name(operation);
  if (absl::Status text = CheckText(request); !text.ok()) return text;
  const auto cancellation = options.cancellation ? options.cancellation->state_ : nullptr;
  Attempts attempts(connection_->link(), options, cancellation);
  while (true) {
    Call call(connection_->options, attempts.Rest(), cancellation);
    const auto reader = connection_->quantization->WatchOperation(call.context(), request);
    Operation state;
    while (reader->Read(&state)) {
      if (on_change) on_change(state);
      attempts.Restart();
    }
    absl::Status status = FromGrpc(reader->Finish());
    if (status.ok() && state.done()) return state;
    if (status.ok()) status = absl::UnavailableError("the server ended the watch");
    if (!attempts.Again(status)) return status;
  }
}

absl::StatusOr<QuantizeReport> Client::Follow(
    const std::function<absl::StatusOr<Operation>(const CallOptions&)>& start,
    const ProgressCallback& progress, const CallOptions& call) {
  if (call.cancellation && call.cancellation->cancelled()) {
    return absl::CancelledError("the call was cancelled before it began");
  }
  const absl::StatusOr<Operation> operation = start(call);
  if (!operation.ok()) {
    // The server may have started it; then the same request tells its name.
    if (GaveUp(operation.status()) && connection_->link().MayAnswer()) {
      const absl::StatusOr<Operation> started = start(kLastWord);
      if (started.ok()) (void)CancelOperation(started->name(), kLastWord);
    }
    return operation.status();
  }
  const auto on_change = [&progress](const Operation& state) {
    quant::v1::OperationMetadata metadata;
    if (progress && state.metadata().UnpackTo(&metadata)) progress(metadata.progress());
  };
  absl::StatusOr<Operation> done = Watch(operation->name(), on_change, call);
  if (!done.ok()) {
    if (GaveUp(done.status())) (void)CancelOperation(operation->name(), kLastWord);
    return done.status();
  }
  if (done->has_error()) {
    return absl::Status(static_cast<absl::StatusCode>(done->error().code()),
                        done->error().message());
  }
  QuantizeReport report;
  if (!done->response().UnpackTo(&report)) {
    return absl::InternalError("the server's report is of an unknown type");
  }
  return report;
}

absl::StatusOr<QuantizeReport> Client::Quantize(const quant::v1::QuantizeCheckpointRequest& request,
                                                const ProgressCallback& progress,
                                                const CallOptions& call) {
  const auto start = [this, known = WithRequestId(request)](const CallOptions& options) {
    return StartQuantize(known, options);
  };
  return Follow(start, progress, call);
}

absl::StatusOr<QuantizeReport> Client::Dequantize(
    const quant::v1::DequantizeCheckpointRequest& request, const ProgressCallback& progress,
    const CallOptions& call) {
  const auto start = [this, known = WithRequestId(request)](const CallOptions& options) {
    return StartDequantize(known, options);
  };
  return Follow(start, progress, call);
}

absl::StatusOr<QuantizedTensorData> Client::QuantizeTensor(const quant::v1::Recipe& recipe,
                                                           const TensorData& weight,
                                                           const CallOptions& options) {
  return QuantizeTensor(recipe, weight, nullptr, "", options);
}

absl::StatusOr<QuantizedTensorData> Client::QuantizeTensor(const quant::v1::Recipe& recipe,
                                                           const TensorData& weight,
                                                           const TensorData* calibration,
                                                           const CallOptions& options) {
  return QuantizeTensor(recipe, weight, calibration, "", options);
}

absl::StatusOr<QuantizedTensorData> Client::QuantizeTensor(const quant::v1::Recipe& recipe,
                                                           const TensorData& weight,
                                                           const TensorData* calibration,
                                                           const std::string& name,
                                                           const CallOptions& options) {
  quant::v1::QuantizeTensorRequest first;
  *first.mutable_recipe() = recipe;
  first.set_name(name);
  std::vector<const TensorData*> tensors = {&weight};
  TensorData inputs;
  if (calibration != nullptr) {
    inputs = *calibration;
    inputs.spec.set_name("calibration");
    tensors.push_back(&inputs);
  }
  return Exchange(connection_->link(), options,
                  options.cancellation ? options.cancellation->state_ : nullptr, first, tensors,
                  [this](grpc::ClientContext* context) {
                    return connection_->quantization->QuantizeTensor(context);
                  });
}

absl::StatusOr<TensorData> Client::DequantizeTensor(const QuantizedTensorData& quantized,
                                                    const std::string& dtype,
                                                    const CallOptions& options) {
  quant::v1::DequantizeTensorRequest first;
  first.mutable_start()->set_quantization_config(quantized.quantization_config);
  first.mutable_start()->set_dtype(dtype);
  std::vector<const TensorData*> tensors;
  for (const TensorData& tensor : quantized.tensors) tensors.push_back(&tensor);
  absl::StatusOr<QuantizedTensorData> result = Exchange(
      connection_->link(), options, options.cancellation ? options.cancellation->state_ : nullptr,
      first, tensors, [this](grpc::ClientContext* context) {
        return connection_->quantization->DequantizeTensor(context);
      });
  if (!result.ok()) return result.status();
  if (result->tensors.size() != 1) {
    return absl::InternalError(
        absl::StrCat("expected one tensor from the server, found ", result->tensors.size()));
  }
  return std::move(result->tensors.front());
}

}  // namespace quantd
