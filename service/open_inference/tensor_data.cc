#include "service/open_inference/tensor_data.h"

#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "service/status.h"

namespace quantd {
namespace {

using inference::InferTensorContents;

uint32_t Load32(const char* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof(value));  // the wire and every supported CPU are little-endian
  return value;
}

// The typed field that belongs to a datatype.
enum class Field { kNone, kBool, kInt, kInt64, kUint, kUint64, kFloat, kDouble, kBytes };

struct DatatypeInfo {
  absl::string_view name;
  int bytes;  // 0: BYTES
  Field field;
};

constexpr DatatypeInfo kDatatypes[] = {
    {"BOOL", 1, Field::kBool},   {"UINT8", 1, Field::kUint},    {"UINT16", 2, Field::kUint},
    {"UINT32", 4, Field::kUint}, {"UINT64", 8, Field::kUint64}, {"INT8", 1, Field::kInt},
    {"INT16", 2, Field::kInt},   {"INT32", 4, Field::kInt},     {"INT64", 8, Field::kInt64},
    {"FP16", 2, Field::kNone},   {"BF16", 2, Field::kNone},     {"FP32", 4, Field::kFloat},
    {"FP64", 8, Field::kDouble}, {"BYTES", 0, Field::kBytes}};

const DatatypeInfo* FindDatatype(absl::string_view name) {
  for (const DatatypeInfo& info : kDatatypes) {
    if (info.name == name) {
      return &info;
    }
  }
  return nullptr;
}

int64_t CountOf(Field field, const InferTensorContents& contents) {
  switch (field) {
    case Field::kNone:
      return 0;
    case Field::kBool:
      return contents.bool_contents_size();
    case Field::kInt:
      return contents.int_contents_size();
    case Field::kInt64:
      return contents.int64_contents_size();
    case Field::kUint:
      return contents.uint_contents_size();
    case Field::kUint64:
      return contents.uint64_contents_size();
    case Field::kFloat:
      return contents.fp32_contents_size();
    case Field::kDouble:
      return contents.fp64_contents_size();
    case Field::kBytes:
      return contents.bytes_contents_size();
  }
  return 0;
}

int64_t CountOfAll(const InferTensorContents& contents) {
  int64_t count = 0;
  for (int field = 0; field <= static_cast<int>(Field::kBytes); ++field) {
    count += CountOf(static_cast<Field>(field), contents);
  }
  return count;
}

// Walks the elements of a raw BYTES tensor. `take` may be null.
absl::Status WalkStrings(const InputTensor& tensor, std::vector<std::string>* take) {
  absl::string_view rest = *tensor.raw;
  int64_t count = 0;
  while (!rest.empty()) {
    if (rest.size() < 4) {
      return InputError(tensor.name, "the length of an element is cut");
    }
    const uint32_t length = Load32(rest.data());
    rest.remove_prefix(4);
    if (length > rest.size()) {
      return InputError(tensor.name, absl::StrCat("element ", count, " says ", length, " bytes, ",
                                                  rest.size(), " are left"));
    }
    if (count == tensor.elements) {
      return InputError(tensor.name,
                        absl::StrCat("more elements than the ", tensor.elements, " of its shape"));
    }
    if (take != nullptr) {
      take->emplace_back(rest.substr(0, length));
    }
    rest.remove_prefix(length);
    ++count;
  }
  if (count != tensor.elements) {
    return InputError(tensor.name,
                      absl::StrCat(count, " elements came, its shape says ", tensor.elements));
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const DatatypeInfo& datatype, InputTensor& tensor) {
  if (tensor.shape.empty() || tensor.shape.size() > 8) {
    return InputError(tensor.name, absl::StrCat("the shape has ", tensor.shape.size(),
                                                " dimensions; 1 to 8 are allowed"));
  }
  int64_t elements = 1, bytes;
  for (const int64_t dim : tensor.shape) {
    if (dim <= 0) {
      return InputError(tensor.name, absl::StrCat("dimension ", dim, " must be positive"));
    }
    if (__builtin_mul_overflow(elements, dim, &elements) ||
        __builtin_mul_overflow(elements, static_cast<int64_t>(std::max(4, datatype.bytes)),
                               &bytes)) {
      return InputError(tensor.name, "the shape's product overflows 64 bits");
    }
  }
  tensor.elements = elements;
  return absl::OkStatus();
}

absl::Status CheckData(const DatatypeInfo& datatype, const InputTensor& tensor) {
  if (tensor.raw != nullptr) {
    if (datatype.field == Field::kBytes) {
      return WalkStrings(tensor, nullptr);
    }
    const int64_t wanted = tensor.elements * datatype.bytes;
    if (static_cast<int64_t>(tensor.raw->size()) != wanted) {
      return InputError(
          tensor.name,
          absl::StrCat("input byte size mismatch: got ", tensor.raw->size(), ", expected ", wanted,
                       " for shape [", absl::StrJoin(tensor.shape, ","), "] of ", datatype.name));
    }
    return absl::OkStatus();
  }
  if (datatype.field == Field::kNone) {
    return InputError(tensor.name,
                      absl::StrCat(datatype.name, " has no typed field: send raw contents"));
  }
  const int64_t count = CountOf(datatype.field, *tensor.contents);
  if (CountOfAll(*tensor.contents) != count) {
    return InputError(tensor.name, absl::StrCat("typed contents are in a field that does not "
                                                "belong to datatype ",
                                                datatype.name));
  }
  if (count != tensor.elements) {
    return InputError(tensor.name,
                      absl::StrCat(count, " elements came, its shape says ", tensor.elements));
  }
  return absl::OkStatus();
}

template <class T>
void AppendRaw(const std::string& raw, std::vector<int64_t>& out) {
  for (size_t at = 0; at < raw.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, raw.data() + at, sizeof(T));
    out.push_back(static_cast<int64_t>(value));
  }
}

void AddOutput(const std::string& name, const char* datatype, const std::vector<int64_t>& shape,
               inference::ModelInferResponse& out) {
  auto& output = *out.add_outputs();
  output.set_name(name);
  output.set_datatype(datatype);
  output.mutable_shape()->Add(shape.begin(), shape.end());
}

}  // namespace

absl::Status InputError(absl::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("input \"", Shown(name), "\": ", what));
}

absl::StatusOr<std::map<std::string, InputTensor>> BindInputs(
    const inference::ModelInferRequest& request) {
  const bool raw = request.raw_input_contents_size() > 0;
  if (raw && request.raw_input_contents_size() != request.inputs_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("raw_input_contents has ", request.raw_input_contents_size(), " entries for ",
                     request.inputs_size(), " inputs"));
  }
  std::map<std::string, InputTensor> out;
  for (int i = 0; i < request.inputs_size(); ++i) {
    const auto& input = request.inputs(i);
    InputTensor tensor;
    tensor.name = input.name();
    tensor.datatype = input.datatype();
    tensor.shape.assign(input.shape().begin(), input.shape().end());
    if (input.parameters().contains("shared_memory_region")) {
      return absl::UnimplementedError("shared memory is not offered: send the data in the request");
    }
    const DatatypeInfo* datatype = FindDatatype(tensor.datatype);
    if (datatype == nullptr) {
      return InputError(tensor.name,
                        absl::StrCat("unknown datatype \"", Shown(tensor.datatype), "\""));
    }
    RETURN_IF_ERROR(CheckShape(*datatype, tensor));
    if (raw && CountOfAll(input.contents()) > 0) {
      return InputError(tensor.name, "has typed contents beside raw_input_contents");
    }
    if (raw) {
      tensor.raw = &request.raw_input_contents(i);
    } else {
      tensor.contents = &input.contents();
    }
    RETURN_IF_ERROR(CheckData(*datatype, tensor));
    if (!out.emplace(tensor.name, tensor).second) {
      return InputError(tensor.name, "was sent twice");
    }
  }
  return out;
}

absl::StatusOr<std::vector<int64_t>> Integers(const InputTensor& tensor) {
  std::vector<int64_t> out;
  const absl::string_view type = tensor.datatype;
  const bool raw = tensor.raw != nullptr;
  if (type == "INT64") {
    if (raw) {
      AppendRaw<int64_t>(*tensor.raw, out);
    } else {
      out.assign(tensor.contents->int64_contents().begin(),
                 tensor.contents->int64_contents().end());
    }
  } else if (type == "INT32" || type == "INT16" || type == "INT8") {
    if (!raw) {
      out.assign(tensor.contents->int_contents().begin(), tensor.contents->int_contents().end());
    } else if (type == "INT32") {
      AppendRaw<int32_t>(*tensor.raw, out);
    } else if (type == "INT16") {
      AppendRaw<int16_t>(*tensor.raw, out);
    } else {
      AppendRaw<int8_t>(*tensor.raw, out);
    }
  } else if (type == "UINT32" || type == "UINT16" || type == "UINT8") {
    if (!raw) {
      out.assign(tensor.contents->uint_contents().begin(), tensor.contents->uint_contents().end());
    } else if (type == "UINT32") {
      AppendRaw<uint32_t>(*tensor.raw, out);
    } else if (type == "UINT16") {
      AppendRaw<uint16_t>(*tensor.raw, out);
    } else {
      AppendRaw<uint8_t>(*tensor.raw, out);
    }
  } else if (type == "UINT64") {
    if (raw) {
      AppendRaw<uint64_t>(*tensor.raw, out);
    } else {
      for (const uint64_t value : tensor.contents->uint64_contents()) {
        out.push_back(static_cast<int64_t>(value));
      }
    }
    for (const int64_t value : out) {
      if (value < 0) {
        return InputError(tensor.name, "a value is past the range of INT64");
      }
    }
  } else {
    return InputError(tensor.name, absl::StrCat("datatype ", type, ", expected INT64"));
  }
  return out;
}

absl::StatusOr<std::vector<std::string>> Strings(const InputTensor& tensor) {
  if (tensor.datatype != "BYTES") {
    return InputError(tensor.name, absl::StrCat("datatype ", tensor.datatype, ", expected BYTES"));
  }
  std::vector<std::string> out;
  if (tensor.raw != nullptr) {
    RETURN_IF_ERROR(WalkStrings(tensor, &out));
  } else {
    out.assign(tensor.contents->bytes_contents().begin(), tensor.contents->bytes_contents().end());
  }
  return out;
}

absl::StatusOr<bool> SingleBool(const InputTensor& tensor) {
  if (tensor.datatype != "BOOL" || tensor.elements != 1) {
    return InputError(tensor.name, "expected one BOOL");
  }
  return tensor.raw != nullptr ? (*tensor.raw)[0] != 0 : tensor.contents->bool_contents(0);
}

void AddFloats(const std::string& name, const std::vector<int64_t>& shape,
               std::span<const float> values, inference::ModelInferResponse& out) {
  AddOutput(name, "FP32", shape, out);
  out.add_raw_output_contents(values.data(), values.size_bytes());
}

void AddStrings(const std::string& name, const std::vector<int64_t>& shape,
                std::span<const std::string> values, inference::ModelInferResponse& out) {
  AddOutput(name, "BYTES", shape, out);
  std::string& raw = *out.add_raw_output_contents();
  for (const std::string& value : values) {
    const auto length = static_cast<uint32_t>(value.size());
    raw.append(reinterpret_cast<const char*>(&length), sizeof(length));
    raw.append(value);
  }
}

}  // namespace quantd
