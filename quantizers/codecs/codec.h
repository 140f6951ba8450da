// A codec is how an ecosystem names and packs quantized matrices inside a Hugging Face checkpoint:
// one per `quant_method`. It turns the tensors of one module into a QuantizedTensor and back, byte
// for byte. (GGUF is a container of its own: quantizers/codecs/gguf.)
#ifndef QUANTD_QUANTIZERS_CODECS_CODEC_H_
#define QUANTD_QUANTIZERS_CODECS_CODEC_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"
#include "formats/model_config.h"

namespace quantd {

struct ModuleInfo;  // quantizers/method.h

struct NamedTensor {
  std::string name;  // local to the module: "weight", "weight.absmax", "weight_scale", ...
  Tensor tensor;
};

// Bytes of their contents together.
uint64_t StoredBytes(const std::vector<NamedTensor>& tensors);

// The stored tensors of one module ("model.layers.0.mlp.down_proj"), by local name.
class ModuleTensors {
 public:
  virtual ~ModuleTensors() = default;
  virtual const std::string& module() const = 0;
  virtual std::vector<std::string> names() const = 0;
  virtual bool Has(absl::string_view local_name) const = 0;
  // dtype and shape without reading; NOT_FOUND names module and tensor.
  virtual absl::StatusOr<TensorView> Describe(absl::string_view local_name) const = 0;
  virtual absl::StatusOr<Tensor> Read(absl::string_view local_name) const = 0;
  // What the container's header says about `<module>.<local_name>`; "" when it says nothing.
  virtual std::string HeaderText(absl::string_view /*local_name*/) const { return ""; }
};

// A parameter of a checkpoint that is being written.
struct WrittenParameter {
  std::string name;           // "model.layers.0.mlp.down_proj.weight"
  Shape shape;                // logical: [out, in] of a matrix
  DType dtype = DType::kF32;  // of a matrix: before it was quantized
  bool is_quantized = false;
};

class Codec {
 public:
  virtual ~Codec() = default;
  virtual absl::string_view quant_method() const = 0;

  // Whether the module's weight is stored quantized (else `weight` is a plain tensor).
  virtual bool IsQuantized(const ModuleTensors& tensors) const = 0;
  // How many columns share a scale where quantization_config targets the Linear `module`, 0 when
  // that is no group of a fixed size. It divides the columns of every targeted module, also of one
  // that is stored plain: upstream makes room for the scales before it reads a checkpoint.
  virtual int64_t GroupSizeOf(const ModuleInfo& /*module*/) const { return 0; }
  // Local names that belong to the quantized weight: those the codec consumes. Others ("bias") are
  // parameters of their own.
  virtual std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const = 0;
  // [out, in] of the matrix, from the stored shapes alone.
  virtual absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const = 0;

  // INVALID_ARGUMENT names module, tensor, found and expected.
  virtual absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const = 0;
  virtual absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const = 0;
  // Upper bound of tensors that Encode gives for one matrix.
  virtual int max_tensors_per_matrix() const = 0;
  // What biases of quantized modules are stored in, where that is not the model's dtype.
  virtual std::optional<DType> BiasDType() const { return std::nullopt; }
  // Texts that the header of every file of the checkpoint must carry, for libraries that rebuild
  // tensors from it.
  virtual std::map<std::string, std::string> HeaderTexts(
      const std::vector<WrittenParameter>& /*parameters*/) const {
    return {};
  }
  // The quantization_config of a checkpoint that holds exactly these tensors (by their full names),
  // for upstreams that repeat their sizes in it; `quantization_config` is what it is without them.
  virtual absl::StatusOr<std::string> ConfigOfStored(
      const std::string& quantization_config,
      const std::map<std::string, Shape>& /*stored*/) const {
    return quantization_config;
  }
};

// The codec that reads a checkpoint with this quantization_config (JSON text). INVALID_ARGUMENT for
// contradictions, UNIMPLEMENTED naming an unknown quant_method and listing the known ones.
absl::StatusOr<std::unique_ptr<Codec>> CodecFor(const ModelConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_CODEC_H_
