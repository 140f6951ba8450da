// The parts of compressed-tensors' pack-quantized format: words, zero points, column groups.
#ifndef QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_PACK_H_
#define QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_PACK_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/compressed_tensors_config.h"

namespace quantd {

// [out, in] from `weight_shape`.
absl::StatusOr<Shape> ReadPackedShape(const ModuleTensors& tensors);

// Fills codes from `weight_packed`. The number of words tells which release packed them; where both
// give the same number, `version` of the config does.
absl::Status DecodePackedWords(const ModuleTensors& tensors, const CtArgs& args,
                               const std::string& version, QuantizedTensor* out);
void EncodePackedWords(const QuantizedTensor& weight, std::vector<NamedTensor>* out);

// Zero points are packed along the rows. After DecodePackedWords.
absl::Status DecodePackedZeroPoints(const ModuleTensors& tensors, QuantizedTensor* out);
void EncodePackedZeroPoints(const QuantizedTensor& weight, std::vector<NamedTensor>* out);

// `weight_g_idx` gives the group of each column. Where groups are not runs of columns, the codes
// are put into group order and input.permutation says whence they came. After the codes.
absl::Status DecodeColumnOrder(const ModuleTensors& tensors, QuantizedTensor* out);
QuantizedTensor InStoredColumnOrder(const QuantizedTensor& weight);
void EncodeColumnOrder(const QuantizedTensor& weight, std::vector<NamedTensor>* out);

// Four 6-bit codes in three bytes.
std::vector<std::byte> PackSixBits(const std::vector<uint8_t>& codes);
std::vector<uint8_t> UnpackSixBits(const std::vector<std::byte>& bytes);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_PACK_H_
