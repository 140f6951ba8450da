#include "quantizers/codecs/codec.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
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

absl::StatusOr<std::unique_ptr<Codec>> CodecFor(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::string method, QuantMethodOf(config.quantization_config));
  if (method == "bitsandbytes") {
    RETURN_IF_ERROR(ParseBitsAndBytesConfig(config.quantization_config).status());
    return std::make_unique<BitsAndBytesCodec>();
  }
  if (method == "compressed-tensors") {
    ASSIGN_OR_RETURN(CtConfig parsed, ParseCtConfig(config.quantization_config));
    return std::make_unique<CompressedTensorsCodec>(std::move(parsed));
  }
  if (method == "fp8" || method == "mxfp8") {
    ASSIGN_OR_RETURN(const FineGrainedFp8Config parsed,
                     ParseFineGrainedFp8Config(config.quantization_config));
    Fp8Layout layout = FineGrainedFp8Layout(parsed.tile, parsed.scale_fmt == "ue8m0", config.dtype,
                                            parsed.is_static());
    if (method == "mxfp8") {
      layout.quant_method = "mxfp8";
      layout.inputs = {};  // groups under powers of two
    }
    return std::make_unique<Fp8Codec>(layout);
  }
  if (method == "fbgemm_fp8") {
    ASSIGN_OR_RETURN(const FbgemmFp8Config parsed,
                     ParseFbgemmFp8Config(config.quantization_config));
    return std::make_unique<Fp8Codec>(FbgemmFp8Layout(parsed.activation_scale_ub));
  }
  if (method == "eetq") {
    RETURN_IF_ERROR(ParseEetqConfig(config.quantization_config).status());
    return std::make_unique<EetqCodec>();
  }
  if (method == "quark") {
    ASSIGN_OR_RETURN(QuarkConfig parsed, ParseQuarkConfig(config.quantization_config));
    return std::make_unique<QuarkCodec>(std::move(parsed), config.dtype);
  }
  if (method == "torchao") {
    ASSIGN_OR_RETURN(TorchAoConfig parsed, ParseTorchAoConfig(config.quantization_config));
    return std::make_unique<TorchAoCodec>(std::move(parsed), config.dtype);
  }
  if (method == "gptq") {
    ASSIGN_OR_RETURN(GptqConfig parsed, ParseGptqConfig(config.quantization_config));
    return std::make_unique<GptqCodec>(std::move(parsed));
  }
  if (method == "higgs") {
    ASSIGN_OR_RETURN(HiggsConfig parsed, ParseHiggsConfig(config.quantization_config));
    return std::make_unique<HiggsCodec>(std::move(parsed));
  }
  if (method == "hqq") {
    ASSIGN_OR_RETURN(HqqConfig parsed, ParseHqqConfig(config.quantization_config));
    return std::make_unique<HqqCodec>(std::move(parsed));
  }
  if (method == "quanto") {
    ASSIGN_OR_RETURN(QuantoConfig parsed, ParseQuantoConfig(config.quantization_config));
    return std::make_unique<QuantoCodec>(std::move(parsed), config);
  }
  if (method == "auto-round" || method == "intel/auto-round") {
    ASSIGN_OR_RETURN(AutoRoundConfig parsed, ParseAutoRoundConfig(config.quantization_config));
    return std::make_unique<AutoRoundCodec>(std::move(parsed));
  }
  if (method == "fouroversix") {
    ASSIGN_OR_RETURN(FourOverSixConfig parsed, ParseFourOverSixConfig(config.quantization_config));
    return std::make_unique<FourOverSixCodec>(std::move(parsed));
  }
  if (method == "metal") {
    ASSIGN_OR_RETURN(MetalConfig parsed, ParseMetalConfig(config.quantization_config));
    return std::make_unique<MetalCodec>(std::move(parsed));
  }
  if (method == "sinq") {
    ASSIGN_OR_RETURN(SinqConfig parsed, ParseSinqConfig(config.quantization_config));
    return std::make_unique<SinqCodec>(std::move(parsed), config.dtype);
  }
  if (method == "awq") {
    ASSIGN_OR_RETURN(AwqConfig parsed, ParseAwqConfig(config.quantization_config));
    return std::make_unique<AwqCodec>(std::move(parsed));
  }
  if (method == "bitnet") {
    ASSIGN_OR_RETURN(BitNetConfig parsed, ParseBitNetConfig(config.quantization_config));
    return std::make_unique<BitNetCodec>(std::move(parsed), config);
  }
  if (method == "spqr") {
    ASSIGN_OR_RETURN(SpqrConfig parsed, ParseSpqrConfig(config.quantization_config));
    return std::make_unique<SpqrCodec>(std::move(parsed));
  }
  if (method == "aqlm") {
    ASSIGN_OR_RETURN(AqlmConfig parsed, ParseAqlmConfig(config.quantization_config));
    return std::make_unique<AqlmCodec>(std::move(parsed));
  }
  if (method == "vptq") {
    ASSIGN_OR_RETURN(VptqConfig parsed, ParseVptqConfig(config.quantization_config));
    return std::make_unique<VptqCodec>(std::move(parsed));
  }
  return absl::UnimplementedError(absl::StrCat(
      "quantization_config.quant_method: found \"",
      absl::Utf8SafeCEscape(absl::string_view(method).substr(0, 200)),
      "\", expected one of bitsandbytes, compressed-tensors, "
      "fp8, mxfp8, fbgemm_fp8, eetq, gptq, torchao, higgs, hqq, quark, quanto, bitnet, awq, "
      "auto-round, spqr, aqlm, vptq, metal, fouroversix, sinq"));
}

}  // namespace quantd
