// Tensors on the wire, of both APIs: everything that does not fit is refused before it is used.
#include <gtest/gtest.h>

#include <cstring>

#include "service/open_inference/parameters.h"
#include "service/open_inference/tensor_data.h"
#include "service/tensor_stream.h"

namespace quantd {
namespace {

using inference::ModelInferRequest;

ModelInferRequest Request(const std::string& datatype, std::vector<int64_t> shape) {
  ModelInferRequest request;
  auto& input = *request.add_inputs();
  input.set_name("x");
  input.set_datatype(datatype);
  input.mutable_shape()->Add(shape.begin(), shape.end());
  return request;
}

template <class T>
std::string Raw(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

ModelInferRequest RawRequest(const std::string& datatype, std::vector<int64_t> shape,
                             const std::string& raw) {
  ModelInferRequest request = Request(datatype, std::move(shape));
  request.add_raw_input_contents(raw);
  return request;
}

TEST(TensorData, ReadsIntegersOfEveryWidthRawAndTyped) {
  const auto read = [](const ModelInferRequest& request) {
    const auto inputs = BindInputs(request);
    EXPECT_TRUE(inputs.ok()) << inputs.status();
    return *Integers(inputs->at("x"));
  };
  const std::vector<int64_t> want = {1, 2, 100};
  EXPECT_EQ(read(RawRequest("INT64", {1, 3}, Raw<int64_t>({1, 2, 100}))), want);
  EXPECT_EQ(read(RawRequest("INT32", {3}, Raw<int32_t>({1, 2, 100}))), want);
  EXPECT_EQ(read(RawRequest("INT8", {3}, Raw<int8_t>({1, 2, 100}))), want);
  EXPECT_EQ(read(RawRequest("UINT16", {3}, Raw<uint16_t>({1, 2, 100}))), want);
  EXPECT_EQ(read(RawRequest("UINT64", {3}, Raw<uint64_t>({1, 2, 100}))), want);
  ModelInferRequest typed = Request("INT64", {3});
  for (const int64_t value : want) {
    typed.mutable_inputs(0)->mutable_contents()->add_int64_contents(value);
  }
  EXPECT_EQ(read(typed), want);
}

TEST(TensorData, ReadsAndWritesBytes) {
  const std::string raw("\5\0\0\0hello\6\0\0\0w\xc3\xb6rld\0\0\0\0", 23);
  const ModelInferRequest request = RawRequest("BYTES", {3}, raw);
  const auto inputs = BindInputs(request);
  ASSERT_TRUE(inputs.ok());
  const std::vector<std::string> want = {"hello", "w\xc3\xb6rld", ""};
  EXPECT_EQ(*Strings(inputs->at("x")), want);
  inference::ModelInferResponse response;
  AddStrings("y", {3}, want, response);
  EXPECT_EQ(response.raw_output_contents(0), raw);
}

TEST(TensorData, RefusesWhatDoesNotFit) {
  const int64_t huge = int64_t{1} << 62;
  const std::string eight(8, '\1');
  std::vector<ModelInferRequest> wrong = {
      RawRequest("INT64", {2}, eight),
      RawRequest("INT64", {-1}, eight),
      RawRequest("INT64", {0}, ""),
      RawRequest("INT64", {-1, -1}, eight),
      RawRequest("INT64", {huge, 4}, eight),
      RawRequest("INT64", {huge}, eight),
      RawRequest("INT64", {}, eight),
      RawRequest("INT64", {1, 1, 1, 1, 1, 1, 1, 1, 1}, eight),
      RawRequest("INT65", {1}, eight),
      RawRequest("int64", {1}, eight),
      RawRequest("BYTES", {1}, std::string("\5\0\0\0hell", 8)),
      RawRequest("BYTES", {1}, std::string("\xff\xff\xff\xffx", 5)),
      RawRequest("BYTES", {1}, std::string("\0\0\0", 3)),
      RawRequest("BYTES", {1}, std::string(8, '\0')),
      RawRequest("BYTES", {3}, std::string(8, '\0')),
      Request("INT64", {1}),
      Request("BF16", {1})};
  ModelInferRequest other_field = Request("INT64", {1});
  other_field.mutable_inputs(0)->mutable_contents()->add_int_contents(1);
  wrong.push_back(other_field);
  ModelInferRequest both = RawRequest("INT64", {1}, eight);
  both.mutable_inputs(0)->mutable_contents()->add_int64_contents(1);
  wrong.push_back(both);
  ModelInferRequest more_raw = RawRequest("INT64", {1}, eight);
  more_raw.add_raw_input_contents(eight);
  wrong.push_back(more_raw);
  ModelInferRequest twice = RawRequest("INT64", {1}, eight);
  *twice.add_inputs() = twice.inputs(0);
  twice.add_raw_input_contents(eight);
  wrong.push_back(twice);
  for (size_t i = 0; i < wrong.size(); ++i) {
    EXPECT_EQ(BindInputs(wrong[i]).status().code(), absl::StatusCode::kInvalidArgument) << i;
  }
}

TEST(Parameters, AcceptsNumbersInEveryKind) {
  ModelInferRequest request;
  auto& parameters = *request.mutable_parameters();
  parameters["max_tokens"].set_int64_param(5);
  parameters["temperature"].set_string_param("0.5");
  parameters["top_p"].set_double_param(0.25);
  parameters["top_k"].set_uint64_param(7);
  parameters["seed"].set_int64_param(9);
  parameters["stop"].set_string_param("x");
  parameters["priority"].set_uint64_param(2);
  parameters["timeout"].set_int64_param(5000);
  parameters["triton_enable_empty_final_response"].set_bool_param(true);
  GenerationOptions options;
  ASSERT_TRUE(ApplyParameters(request.parameters(), options).ok());
  EXPECT_EQ(options.max_tokens, 5);
  EXPECT_EQ(options.sampling.temperature, 0.5f);
  EXPECT_EQ(options.sampling.top_p, 0.25f);
  EXPECT_EQ(options.sampling.top_k, 7);
  EXPECT_EQ(options.sampling.seed, 9u);
  EXPECT_EQ(options.stop, std::vector<std::string>{"x"});
}

TEST(Parameters, NamesWrongKeysAndKinds) {
  const auto refuse = [](const std::string& key, const inference::InferParameter& value) {
    ModelInferRequest request;
    (*request.mutable_parameters())[key] = value;
    GenerationOptions options;
    const absl::Status status = ApplyParameters(request.parameters(), options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key;
    EXPECT_NE(status.message().find(key), absl::string_view::npos) << status;
  };
  inference::InferParameter text, flag, large;
  text.set_string_param("many");
  flag.set_bool_param(true);
  large.set_int64_param(int64_t{1} << 40);
  refuse("max_tokens", text);
  refuse("max_tokens", large);
  refuse("temperature", flag);
  refuse("stop", flag);
  refuse("ignore_eos", text);
  refuse("surprise", text);
  refuse("seed", {});
}

TEST(Parameters, ReadsJson) {
  GenerationOptions options;
  ASSERT_TRUE(
      ApplyJsonParameters(
          R"({"max_tokens": 3, "temperature": 0.5, "stop": ["a", "b"], "seed": null})", options)
          .ok());
  EXPECT_EQ(options.max_tokens, 3);
  EXPECT_EQ(options.stop, (std::vector<std::string>{"a", "b"}));
  for (const char* json : {"", "[]", "{", R"({"max_tokens": 1.5})", R"({"max_tokens": {}})",
                           R"({"nonsense": 1})", R"({"stop": [[]]})"}) {
    EXPECT_FALSE(ApplyJsonParameters(json, options).ok()) << json;
  }
}

quant::v1::TensorSpec Spec(const std::string& name, const std::string& dtype,
                           std::vector<int64_t> shape) {
  quant::v1::TensorSpec spec;
  spec.set_name(name);
  spec.set_dtype(dtype);
  spec.mutable_shape()->Add(shape.begin(), shape.end());
  return spec;
}

TEST(TensorAssembler, JoinsChunksOfAnySize) {
  TensorAssembler assembler(1 << 20);
  const std::string data = Raw<float>({1, 2, 3, 4, 5, 6});
  ASSERT_TRUE(assembler.Begin(Spec("weight", "F32", {2, 3})).ok());
  ASSERT_TRUE(assembler.Append(data.substr(0, 1)).ok());
  ASSERT_TRUE(assembler.Append("").ok());
  ASSERT_TRUE(assembler.Append(data.substr(1)).ok());
  ASSERT_TRUE(assembler.Begin(Spec("scale", "U8", {1})).ok());
  ASSERT_TRUE(assembler.Append("x").ok());
  const auto tensors = assembler.Finish();
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  EXPECT_EQ((*tensors)[0].tensor.shape, (Shape{2, 3}));
  EXPECT_EQ(std::memcmp((*tensors)[0].tensor.bytes.data(), data.data(), data.size()), 0);
}

TEST(TensorAssembler, RefusesWhatDoesNotFit) {
  const int64_t huge = int64_t{1} << 62;
  const std::vector<quant::v1::TensorSpec> wrong = {
      Spec("", "F32", {1}),      Spec(std::string(201, 'a'), "F32", {1}),
      Spec("x", "F99", {1}),     Spec("x", "F32", {-1}),
      Spec("x", "F32", {0}),     Spec("x", "F32", {huge, 8}),
      Spec("x", "F32", {huge}),  Spec("x", "F32", {1, 1, 1, 1, 1, 1, 1, 1, 1}),
      Spec("x", "F32", {-2, -2})};
  for (const auto& spec : wrong) {
    TensorAssembler assembler(1 << 20);
    EXPECT_EQ(assembler.Begin(spec).code(), absl::StatusCode::kInvalidArgument)
        << spec.ShortDebugString();
  }
  TensorAssembler assembler(100);
  EXPECT_FALSE(assembler.Append("early").ok());
  EXPECT_FALSE(assembler.Finish().ok());
  EXPECT_EQ(assembler.Begin(Spec("x", "U8", {101})).code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(assembler.Begin(Spec("x", "U8", {3})).ok());
  EXPECT_FALSE(assembler.Append("four").ok());
  EXPECT_FALSE(assembler.Finish().ok());
  EXPECT_FALSE(assembler.Begin(Spec("y", "U8", {1})).ok());  // x is not complete
  ASSERT_TRUE(assembler.Append("abc").ok());
  EXPECT_FALSE(assembler.Begin(Spec("x", "U8", {1})).ok());  // again
  EXPECT_EQ(assembler.Begin(Spec("y", "U8", {98})).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(assembler.Finish().ok());
}

TEST(TensorChunker, IsTheReverse) {
  std::vector<NamedTensor> tensors;
  tensors.push_back({"big", Tensor{DType::kU8, {700001}, std::vector<std::byte>(700001)}});
  tensors.back().tensor.bytes[700000] = std::byte{7};
  tensors.push_back({"small", Tensor{DType::kU8, {1}, {std::byte{1}}}});
  TensorChunker chunker(tensors, "{}");
  TensorAssembler assembler(1 << 20);
  quant::v1::TensorChunk chunk;
  std::string config;
  while (chunker.Next(chunk)) {
    if (chunk.has_tensor()) {
      ASSERT_TRUE(assembler.Begin(chunk.tensor()).ok());
    } else if (chunk.chunk_case() == quant::v1::TensorChunk::kData) {
      ASSERT_TRUE(assembler.Append(chunk.data()).ok());
    } else {
      config = chunk.quantization_config();
    }
  }
  EXPECT_EQ(config, "{}");
  const auto back = assembler.Finish();
  ASSERT_TRUE(back.ok());
  ASSERT_EQ(back->size(), 2u);
  EXPECT_EQ((*back)[0].tensor.bytes, tensors[0].tensor.bytes);
}

}  // namespace
}  // namespace quantd
