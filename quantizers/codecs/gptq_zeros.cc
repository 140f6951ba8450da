#include "quantizers/codecs/gptq_zeros.h"

#include <algorithm>

namespace quantd {
namespace {

// A one in every field of a word; 0 where the subtraction is by field.
uint32_t WordOnes(const GptqZeroTable& table, GptqZeros spelling) {
  if (spelling != GptqZeros::kWordMinusOne) return 0;
  switch (table.bits) {
    case 2:
      return 0x55555555u;
    case 4:
      return 0x11111111u;
    case 8:
      return 0x01010101u;
    default:
      return 0;
  }
}

}  // namespace

absl::string_view NameOf(GptqZeros spelling) {
  switch (spelling) {
    case GptqZeros::kPlain:
      return "plain";
    case GptqZeros::kFieldMinusOne:
      return "field - 1";
    case GptqZeros::kWordMinusOne:
      return "word - 1";
  }
  return "";
}

GptqZeros GptqZerosNamed(absl::string_view name) {
  for (const GptqZeros spelling : {GptqZeros::kFieldMinusOne, GptqZeros::kWordMinusOne}) {
    if (name == NameOf(spelling)) return spelling;
  }
  return GptqZeros::kPlain;
}

std::vector<uint32_t> PackGptqZeros(const GptqZeroTable& table, std::span<const uint8_t> codes,
                                    GptqZeros spelling) {
  const uint32_t ones = WordOnes(table, spelling);
  std::vector<uint8_t> stored(codes.begin(), codes.end());
  if (spelling != GptqZeros::kPlain && ones == 0) {
    const int mask = (1 << table.bits) - 1;
    for (uint8_t& code : stored) code = static_cast<uint8_t>((code - 1) & mask);
  }
  std::vector<uint32_t> words =
      PackWords(stored, table.groups, table.rows, table.bits, table.packing);
  for (uint32_t& word : words) word -= ones;
  return words;
}

std::vector<uint8_t> UnpackGptqZeros(const GptqZeroTable& table, std::span<const uint32_t> words,
                                     GptqZeros spelling) {
  const uint32_t ones = WordOnes(table, spelling);
  std::vector<uint32_t> plain(words.begin(), words.end());
  for (uint32_t& word : plain) word += ones;
  std::vector<uint8_t> codes =
      UnpackWords(plain, table.groups, table.rows, table.bits, table.packing);
  if (spelling != GptqZeros::kPlain && ones == 0) {
    const int mask = (1 << table.bits) - 1;
    for (uint8_t& code : codes) code = static_cast<uint8_t>((code + 1) & mask);
  }
  return codes;
}

GptqZeros SymmetricSpelling(const GptqZeroTable& table, std::span<const uint32_t> words,
                            GptqZeros told) {
  const std::vector<uint8_t> codes =
      UnpackWords(words, table.groups, table.rows, table.bits, table.packing);
  const auto all = [&codes](int value) {
    return std::all_of(codes.begin(), codes.end(), [value](uint8_t code) { return code == value; });
  };
  const int middle = 1 << (table.bits - 1);
  if (all(middle)) return GptqZeros::kPlain;
  if (!all(middle - 1)) return told;
  return told == GptqZeros::kPlain ? GptqZeros::kFieldMinusOne : told;
}

}  // namespace quantd
