// make_seeds FOLDER TESTS_DATA: writes FOLDER/<target>/<seed> for every fuzz target, small and
// sound inputs made by the project's own writers and taken from tests/data.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "formats/safetensors/safetensors.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

fs::path out, data;

std::string Read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(absl::StrCat("cannot read ", path.string()));
  return {std::istreambuf_iterator<char>(file), {}};
}

void Write(const std::string& target, const std::string& seed, absl::string_view bytes) {
  fs::create_directories(out / target);
  std::ofstream file(out / target / seed, std::ios::binary);
  if (!(file << bytes).flush()) throw std::runtime_error("cannot write " + target + "/" + seed);
}

std::string Joined(const std::vector<absl::string_view>& parts) {
  return absl::StrJoin(parts, absl::string_view("\0", 1));
}

// A matrix of small numbers that are not all the same.
Tensor Matrix(DType dtype, int64_t rows, int64_t cols) {
  Tensor floats = MakeTensor(DType::kF32, {rows, cols});
  for (int64_t i = 0; i < rows * cols; ++i) {
    const float value = static_cast<float>((i * 37) % 101 - 50) / 50;
    std::memcpy(floats.bytes.data() + 4 * i, &value, 4);
  }
  return ConvertTensor(floats, dtype);
}

std::string TextOf(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void SafetensorsSeeds() {
  const auto file = SerializeSafetensors({{"a.weight", Matrix(DType::kBF16, 4, 8)},
                                          {"a.bias", Matrix(DType::kF32, 1, 4)},
                                          {"scalar", MakeTensor(DType::kU8, {})},
                                          {"empty", MakeTensor(DType::kI64, {0, 3})}},
                                         {{"format", "pt"}});
  Write("safetensors_fuzz", "four", TextOf(file.value()));
  Write("safetensors_fuzz", "none", TextOf(SerializeSafetensors({}, {}).value()));
}

std::string LlamaConfig() { return Read(data / "golden/tiny-llama/config.json"); }

constexpr char kBertConfig[] =
    R"({"architectures":["BertModel"],"model_type":"bert","vocab_size":8,"hidden_size":8,
"num_hidden_layers":1,"num_attention_heads":2,"intermediate_size":16,"max_position_embeddings":16,
"type_vocab_size":2,"layer_norm_eps":1e-12,"hidden_act":"gelu","pad_token_id":0})";
constexpr char kSmallConfig[] =
    R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":8,"hidden_size":4,
"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"intermediate_size":8,
"max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":1e4,"tie_word_embeddings":true,
"torch_dtype":"bfloat16","bos_token_id":1,"eos_token_id":[2,3],"rope_scaling":{"rope_type":"llama3",
"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":32},
"quantization_config":{"quant_method":"fp8","weight_block_size":[4,4]}})";

void ConfigSeeds() {
  Write("config_json_fuzz", "llama", LlamaConfig());
  Write("config_json_fuzz", "small", kSmallConfig);
  Write("config_json_fuzz", "bert", kBertConfig);
}

void TokenizerSeeds() {
  for (const auto& entry : fs::directory_iterator(data / "tokenizers")) {
    if (entry.path().extension() == ".json" && entry.file_size() < 100'000) {
      Write("tokenizer_json_fuzz", entry.path().filename(), Read(entry.path()));
    }
  }
  Write("tokenizer_json_fuzz", "word_piece",
        R"({"version":"1.0","added_tokens":[{"id":0,"content":"[UNK]","single_word":false,
"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":
"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":null,"decoder":{"type":"WordPiece",
"prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]",
"continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0,"h":1,"##e":2,
"##l":3,"##o":4,"don":5,"'":6,"t":7}}})");
  for (const auto& entry : fs::directory_iterator(data / "chat")) {
    if (entry.path().extension() == ".jinja") {
      Write("chat_template_fuzz", entry.path().filename(), Read(entry.path()));
    }
  }
}

// The stored tensors of a quantized matrix in codec_fuzz's text: small ones with their content,
// where it does not hold the text's own separators.
std::string CodecText(const Recipe& recipe, const ModuleInfo& module,
                      const std::vector<NamedTensor>& tensors) {
  ModelConfig config;
  config.dtype = DType::kBF16;
  std::string lines;
  for (const auto& [name, tensor] : tensors) {
    const std::string bytes = TextOf(tensor.bytes);
    const bool inlined = bytes.size() <= 1024 && bytes.find('\0') == std::string::npos &&
                         bytes.find('\n') == std::string::npos;
    absl::StrAppend(&lines, name, " ", InfoOf(tensor.dtype).safetensors_name, " ",
                    inlined && tensor.shape.size() == 1 ? absl::StrCat("=", bytes)
                                                        : absl::StrJoin(tensor.shape, ","),
                    "\n");
  }
  return Joined({recipe.QuantizationConfigFor(config, {module}), lines, "\x3c\x3c"});
}

void CodecSeed(const std::string& seed, const std::string& method,
               const std::map<std::string, std::string>& options) {
  const auto recipe = MakeRecipe(method, options).value();
  if (recipe->codec() == nullptr) return;
  ModuleInfo module;
  module.name = "model.layers.0.self_attn.q_proj";
  module.rows = 128;
  module.cols = 128;
  module.layer = 0;
  const Scheme* scheme = recipe->SchemeFor(module, ModelConfig{});
  if (scheme == nullptr) throw std::runtime_error(method + " keeps the matrix");
  const DType dtype = recipe->InputDType().value_or(DType::kBF16);
  const InputStats stats;  // no token: calibrated methods take all inputs for alike
  const auto weight = scheme->Quantize(Matrix(dtype, module.rows, module.cols), &stats).value();
  Write("codec_fuzz", seed, CodecText(*recipe, module, recipe->codec()->Encode(weight).value()));
}

void CodecSeeds() {
  for (const Method& method : AllMethods()) {
    if (!method.needs_calibration) CodecSeed(method.name, method.name, {});
  }
  CodecSeed("bitsandbytes-8", "bitsandbytes", {{"bits", "8"}});
  CodecSeed("bitsandbytes-double", "bitsandbytes",
            {{"bnb_4bit_quant_type", "nf4"}, {"bnb_4bit_use_double_quant", "true"}});
  CodecSeed("gptq", "gptq", {});
  CodecSeed("gptq-3", "gptq", {{"bits", "3"}, {"sym", "false"}});
  CodecSeed("gptq-planar", "gptq", {{"bits", "5"}, {"group_size", "32"}});
  CodecSeed("spqr", "spqr", {});
  CodecSeed("spqr-ptcsr", "spqr", {{"sparse_strategy", "ptcsr"}});
  CodecSeed("aqlm", "aqlm",
            {{"nbits_per_codebook", "5"}, {"num_codebooks", "2"}, {"max_epochs", "1"}});
  CodecSeed("vptq", "vptq", {{"num_centroids", "-1,16"}, {"num_res_centroids", "-1,4"}});
  for (const char* scheme : {"W8A8", "W4A16_ASYM", "FP8_DYNAMIC", "NVFP4A16", "MXFP4A16"}) {
    CodecSeed(absl::StrCat("compressed-tensors-", scheme), "compressed-tensors",
              {{"scheme", scheme}});
  }
}

void FolderSeeds() {
  const auto shard =
      SerializeSafetensors(
          {{"model.layers.0.mlp.up_proj.weight", Matrix(DType::kF8E4M3, 8, 4)},
           {"model.layers.0.mlp.up_proj.weight_scale_inv", Matrix(DType::kF32, 2, 1)},
           {"lm_head.weight", Matrix(DType::kBF16, 8, 4)}},
          {})
          .value();
  constexpr char kIndex[] = R"({"metadata":{"total_size":1},"weight_map":{
"model.embed_tokens.weight":"b.safetensors","model.norm.weight":"b.safetensors",
"lm_head.weight":"a.safetensors","model.layers.0.mlp.up_proj.weight":"a.safetensors",
"model.layers.0.mlp.up_proj.weight_scale_inv":"a.safetensors"}})";
  Write("checkpoint_folder_fuzz", "sharded", Joined({kSmallConfig, kIndex, TextOf(shard)}));
  Write("checkpoint_folder_fuzz", "single", Joined({kSmallConfig, "", TextOf(shard)}));
}

// A GGUF with one tensor of the type, by hand: the writer wants a file.
void AppendNumber(uint64_t value, int bytes, std::string* text) {
  for (int i = 0; i < bytes; ++i) text->push_back(static_cast<char>(value >> (8 * i)));
}
void AppendString(absl::string_view value, std::string* text) {
  AppendNumber(value.size(), 8, text);
  absl::StrAppend(text, value);
}

void GgufSeed(uint32_t type) {
  const GgmlTypeInfo* info = FindGgmlType(type);
  if (info == nullptr) return;
  std::string text("\0GGUF", 5);  // gguf_fuzz's first byte: the whole file is at hand
  AppendNumber(3, 4, &text);
  AppendNumber(1, 8, &text);
  AppendNumber(2, 8, &text);
  AppendString("general.architecture", &text);
  AppendNumber(8, 4, &text);
  AppendString("llama", &text);
  AppendString("scores", &text);
  AppendNumber(9, 4, &text);
  AppendNumber(6, 4, &text);
  AppendNumber(2, 8, &text);
  AppendNumber(0x3f8000003f800000, 8, &text);
  AppendString("output.weight", &text);
  AppendNumber(2, 4, &text);
  AppendNumber(info->block_elements, 8, &text);
  AppendNumber(2, 8, &text);
  AppendNumber(type, 4, &text);
  AppendNumber(0, 8, &text);
  text.resize((text.size() - 1 + 31) / 32 * 32 + 1);
  for (int i = 0; i < 2 * info->block_bytes; ++i) text.push_back(static_cast<char>(i % 60));
  Write("gguf_fuzz", std::string(info->name), text);
}

// Metadata in gguf_model_fuzz's text.
std::string LineOf(const std::string& key, const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value.value)) {
    if (!array->strings.empty())
      return absl::StrCat(key, " S ", absl::StrJoin(array->strings, " "));
    if (!array->floats.empty()) return absl::StrCat(key, " F ", absl::StrJoin(array->floats, " "));
    return absl::StrCat(key, " I ", absl::StrJoin(array->integers, " "));
  }
  if (const auto* text = std::get_if<std::string>(&value.value)) {
    return absl::StrCat(key, " s ", absl::StrReplaceAll(*text, {{"\n", " "}}));
  }
  if (const auto* number = std::get_if<double>(&value.value)) {
    return absl::StrCat(key, " f ", *number);
  }
  return absl::StrCat(key, value.type == GgufValueType::kBool ? " b " : " u ",
                      std::get<int64_t>(value.value));
}

void GgufModelSeed(const std::string& seed, const std::string& config_json,
                   const std::map<std::string, std::string>& side_files, int64_t vocabulary,
                   const std::vector<std::pair<std::string, Shape>>& parameters) {
  ModelConfig config = ParseHfConfig(config_json).value();
  config.quantization_config.clear();
  config.vocab_size = vocabulary;
  const GgufMetadata metadata = MetadataForModel(config, side_files, "seed", 1).value();
  std::string text;
  for (const auto& [key, value] : metadata.entries()) {
    absl::StrAppend(&text, LineOf(key, value), "\n");
  }
  for (const auto& [name, shape] : parameters) {
    absl::StrAppend(&text, GgufNameFor(config, name).value(), " t 0 ", absl::StrJoin(shape, " "),
                    "\n");
  }
  Write("gguf_model_fuzz", seed, text);
}

void GgufSeeds() {
  for (uint32_t type = 0; type < 64; ++type) GgufSeed(type);
  const std::string block = "model.layers.0.";
  for (const char* tokenizer : {"byte_bpe", "sentencepiece"}) {
    const std::string json = Read(data / "tokenizers" / absl::StrCat(tokenizer, ".json"));
    const int64_t rows = 1000;  // more than either has tokens
    GgufModelSeed(tokenizer, kSmallConfig, {{"tokenizer.json", json}}, rows,
                  {{"model.embed_tokens.weight", {rows, 4}},
                   {"model.norm.weight", {4}},
                   {block + "input_layernorm.weight", {4}},
                   {block + "post_attention_layernorm.weight", {4}},
                   {block + "self_attn.q_proj.weight", {4, 4}},
                   {block + "self_attn.k_proj.weight", {2, 4}},
                   {block + "self_attn.v_proj.weight", {2, 4}},
                   {block + "self_attn.o_proj.weight", {4, 4}},
                   {block + "mlp.gate_proj.weight", {8, 4}},
                   {block + "mlp.up_proj.weight", {8, 4}},
                   {block + "mlp.down_proj.weight", {4, 8}}});
  }
}

void MakeSeeds() {
  SafetensorsSeeds();
  ConfigSeeds();
  TokenizerSeeds();
  CodecSeeds();
  FolderSeeds();
  GgufSeeds();
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: make_seeds FOLDER TESTS_DATA\n";
    return 2;
  }
  quantd::out = argv[1];
  quantd::data = argv[2];
  try {
    quantd::MakeSeeds();
  } catch (const std::exception& error) {
    std::cerr << "make_seeds: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
