#include "quantizers/codecs/codec.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "quantizers/codecs/aqlm.h"
#include "quantizers/codecs/autoround.h"
#include "quantizers/codecs/awq.h"
#include "quantizers/codecs/bitnet.h"
#include "quantizers/codecs/bitsandbytes.h"
#include "quantizers/codecs/bitsandbytes_config.h"
#include "quantizers/codecs/compressed_tensors.h"
#include "quantizers/codecs/eetq.h"
#include "quantizers/codecs/fouroversix.h"
#include "quantizers/codecs/fp8.h"
#include "quantizers/codecs/fp8_config.h"
#include "quantizers/codecs/fp_quant.h"
#include "quantizers/codecs/gptq.h"
#include "quantizers/codecs/higgs.h"
#include "quantizers/codecs/higgs_config.h"
#include "quantizers/codecs/hqq.h"
#include "quantizers/codecs/hqq_config.h"
#include "quantizers/codecs/metal.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/codecs/quanto.h"
#include "quantizers/codecs/quark.h"
#include "quantizers/codecs/sinq.h"
#include "quantizers/codecs/spqr.h"
#include "quantizers/codecs/torchao.h"
#include "quantizers/codecs/vptq.h"

namespace quantd {

uint64_t StoredBytes(const std::vector<NamedTensor>& tensors) {
  uint64_t bytes = 0;
  for (const NamedTensor& named : tensors) bytes += named.tensor.bytes.size();
  return bytes;
}

namespace {

using MadeCodec = absl::StatusOr<std::unique_ptr<Codec>>;

// The codec of a parsed config, of those that need no more than it; of those that also need the
// model's dtype, or its whole config.
template <class CodecType, auto kParse>
MadeCodec Of(const ModelConfig& config) {
  ASSIGN_OR_RETURN(auto parsed, kParse(config.quantization_config));
  return std::make_unique<CodecType>(std::move(parsed));
}
template <class CodecType, auto kParse>
MadeCodec OfDType(const ModelConfig& config) {
  ASSIGN_OR_RETURN(auto parsed, kParse(config.quantization_config));
  return std::make_unique<CodecType>(std::move(parsed), config.dtype);
}
template <class CodecType, auto kParse>
MadeCodec OfModel(const ModelConfig& config) {
  ASSIGN_OR_RETURN(auto parsed, kParse(config.quantization_config));
  return std::make_unique<CodecType>(std::move(parsed), config);
}
// The config only has to be sound.
template <class CodecType, auto kParse>
MadeCodec Checked(const ModelConfig& config) {
  RETURN_IF_ERROR(kParse(config.quantization_config).status());
  return std::make_unique<CodecType>();
}

absl::StatusOr<Fp8Layout> LayoutOfFineGrained(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const FineGrainedFp8Config parsed,
                   ParseFineGrainedFp8Config(config.quantization_config));
  return FineGrainedFp8Layout(parsed.tile, parsed.scale_fmt == "ue8m0", config.dtype,
                              parsed.is_static());
}

MadeCodec FineGrainedFp8(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Fp8Layout layout, LayoutOfFineGrained(config));
  return std::make_unique<Fp8Codec>(layout);
}

MadeCodec Mxfp8(const ModelConfig& config) {
  ASSIGN_OR_RETURN(Fp8Layout layout, LayoutOfFineGrained(config));
  layout.quant_method = "mxfp8";
  layout.inputs = {};  // groups under powers of two
  return std::make_unique<Fp8Codec>(layout);
}

MadeCodec FbgemmFp8(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const FbgemmFp8Config parsed, ParseFbgemmFp8Config(config.quantization_config));
  return std::make_unique<Fp8Codec>(FbgemmFp8Layout(parsed.activation_scale_ub));
}

struct CodecOfMethod {
  absl::string_view quant_method;
  MadeCodec (*make)(const ModelConfig& config);
};

constexpr CodecOfMethod kCodecs[] = {
    {"bitsandbytes", Checked<BitsAndBytesCodec, ParseBitsAndBytesConfig>},
    {"compressed-tensors", Of<CompressedTensorsCodec, ParseCtConfig>},
    {"fp8", FineGrainedFp8},
    {"mxfp8", Mxfp8},
    {"fbgemm_fp8", FbgemmFp8},
    {"eetq", Checked<EetqCodec, ParseEetqConfig>},
    {"gptq", Of<GptqCodec, ParseGptqConfig>},
    {"torchao", OfDType<TorchAoCodec, ParseTorchAoConfig>},
    {"higgs", Of<HiggsCodec, ParseHiggsConfig>},
    {"hqq", Of<HqqCodec, ParseHqqConfig>},
    {"quark", OfDType<QuarkCodec, ParseQuarkConfig>},
    {"quanto", OfModel<QuantoCodec, ParseQuantoConfig>},
    {"bitnet", OfModel<BitNetCodec, ParseBitNetConfig>},
    {"awq", Of<AwqCodec, ParseAwqConfig>},
    {"auto-round", Of<AutoRoundCodec, ParseAutoRoundConfig>},
    {"intel/auto-round", Of<AutoRoundCodec, ParseAutoRoundConfig>},
    {"spqr", Of<SpqrCodec, ParseSpqrConfig>},
    {"aqlm", Of<AqlmCodec, ParseAqlmConfig>},
    {"vptq", Of<VptqCodec, ParseVptqConfig>},
    {"metal", Of<MetalCodec, ParseMetalConfig>},
    {"fouroversix", Of<FourOverSixCodec, ParseFourOverSixConfig>},
    {"fp_quant", Of<FpQuantCodec, ParseFpQuantConfig>},
    {"sinq", OfDType<SinqCodec, ParseSinqConfig>},
};

}  // namespace

absl::StatusOr<std::unique_ptr<Codec>> CodecFor(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::string method, QuantMethodOf(config.quantization_config));
  for (const CodecOfMethod& codec : kCodecs) {
    if (codec.quant_method == method) return codec.make(config);
  }
  const auto name = [](std::string* out, const CodecOfMethod& codec) {
    absl::StrAppend(out, codec.quant_method);
  };
  return absl::UnimplementedError(
      absl::StrCat("quantization_config.quant_method: found \"",
                   absl::Utf8SafeCEscape(absl::string_view(method).substr(0, 200)),
                   "\", expected one of ", absl::StrJoin(kCodecs, ", ", name)));
}

}  // namespace quantd
