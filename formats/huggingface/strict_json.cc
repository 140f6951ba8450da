#include "formats/huggingface/strict_json.h"

#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/escaped_name.h"

namespace quantd {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxString = size_t{64} << 20;

// Reads the text for nlohmann's lexer and replaces by 0x01, which is legal nowhere in JSON, what
// the lexer would let pass: NUL bytes (it takes them for the end) and strings without bound.
class GuardedIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  GuardedIterator(const char* at, size_t max_string) : at_(at), max_string_(max_string) {}

  char operator*() const {
    return *at_ == '\0' || (in_string_ && length_ > max_string_) ? '\x01' : *at_;
  }
  GuardedIterator& operator++() {
    const char c = *at_++;
    if (!in_string_) {
      in_string_ = c == '"';
      length_ = 0;
    } else if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
    }
    ++length_;
    return *this;
  }
  GuardedIterator operator++(int) {
    GuardedIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const GuardedIterator& other) const { return at_ == other.at_; }
  bool operator!=(const GuardedIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  size_t max_string_;
  size_t length_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
};

// Between nlohmann's parser and JsonEvents: bounds the depth and turns errors into a status.
class EventBridge : public nlohmann::json_sax<Json> {
 public:
  EventBridge(absl::string_view where, JsonEvents& events) : where_(where), events_(events) {}

  bool null() override { return Pass(events_.Null()); }
  bool boolean(bool value) override { return Pass(events_.Bool(value)); }
  bool number_integer(int64_t value) override {
    return Pass(events_.Integer(static_cast<uint64_t>(value), value < 0));
  }
  bool number_unsigned(uint64_t value) override { return Pass(events_.Integer(value, false)); }
  bool number_float(double value, const std::string&) override {
    return Pass(events_.Float(value));
  }
  bool string(std::string& value) override { return Pass(events_.String(value)); }
  bool binary(binary_t&) override { return false; }
  bool key(std::string& key) override { return Pass(events_.Key(key)); }
  bool start_object(size_t) override { return Deeper() && Pass(events_.BeginObject()); }
  bool end_object() override {
    --depth_;
    return Pass(events_.EndObject());
  }
  bool start_array(size_t) override { return Deeper() && Pass(events_.BeginArray()); }
  bool end_array() override {
    --depth_;
    return Pass(events_.EndArray());
  }
  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& error) override {
    const bool overflow = error.id == 406;  // a number beyond double
    const absl::string_view tail =
        absl::string_view(last_token).substr(last_token.size() > 40 ? last_token.size() - 40 : 0);
    status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": not valid JSON at byte ", position,
                                                      " near ", Quoted(tail),
                                                      overflow ? ": the number is too large" : ""));
    return false;
  }

  absl::Status status() const { return status_; }

 private:
  bool Pass(absl::Status status) {
    if (status.ok()) return true;
    status_ = std::move(status);
    return false;
  }
  bool Deeper() {
    if (++depth_ <= kMaxJsonDepth) return true;
    status_ = absl::InvalidArgumentError(absl::StrCat(
        where_, ": JSON is nested too deeply, expected at most ", kMaxJsonDepth, " levels"));
    return false;
  }

  std::string where_;
  JsonEvents& events_;
  int depth_ = 0;
  absl::Status status_;
};

// Builds a value; finds duplicate keys.
class TreeBuilder : public JsonEvents {
 public:
  TreeBuilder(absl::string_view where, Json* root) : where_(where), root_(root) {}

  absl::Status BeginObject() override { return Open(Json::object()); }
  absl::Status BeginArray() override { return Open(Json::array()); }
  absl::Status EndObject() override { return Close(); }
  absl::Status EndArray() override { return Close(); }
  absl::Status Key(std::string& key) override {
    const auto [entry, is_new] =
        stack_.back()->get_ref<Json::object_t&>().try_emplace(key, nullptr);
    if (!is_new) {
      return absl::InvalidArgumentError(
          absl::StrCat(where_, ": key ", Quoted(key), " appears twice"));
    }
    slot_ = &entry->second;
    return absl::OkStatus();
  }
  absl::Status String(std::string& value) override { return Put(Json(std::move(value))); }
  absl::Status Integer(uint64_t value, bool negative) override {
    return Put(negative ? Json(static_cast<int64_t>(value)) : Json(value));
  }
  absl::Status Float(double value) override { return Put(Json(value)); }
  absl::Status Bool(bool value) override { return Put(Json(value)); }
  absl::Status Null() override { return Put(Json(nullptr)); }

 private:
  Json* Place(Json value) {
    if (stack_.empty()) {
      *root_ = std::move(value);
      return root_;
    }
    if (stack_.back()->is_array()) {
      stack_.back()->push_back(std::move(value));
      return &stack_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }
  absl::Status Put(Json value) {
    Place(std::move(value));
    return absl::OkStatus();
  }
  absl::Status Open(Json container) {
    stack_.push_back(Place(std::move(container)));
    return absl::OkStatus();
  }
  absl::Status Close() {
    stack_.pop_back();
    return absl::OkStatus();
  }

  absl::string_view where_;
  Json* root_;
  std::vector<Json*> stack_;
  Json* slot_ = nullptr;
};

}  // namespace

absl::Status ParseJsonEvents(absl::string_view text, absl::string_view where, size_t max_string,
                             JsonEvents& events) {
  if (text.empty())
    return absl::InvalidArgumentError(absl::StrCat(where, ": empty, expected JSON"));
  const unsigned char first = static_cast<unsigned char>(text.front());
  if (first == 0xef || first == 0xfe || first == 0xff) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": starts with a byte order mark, expected plain UTF-8 JSON"));
  }
  EventBridge bridge(where, events);
  const GuardedIterator begin(text.data(), max_string);
  const GuardedIterator end(text.data() + text.size(), max_string);
  if (Json::sax_parse(begin, end, &bridge, Json::input_format_t::json, /*strict=*/true)) {
    return absl::OkStatus();
  }
  if (bridge.status().ok()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": not valid JSON"));
  }
  return bridge.status();
}

absl::StatusOr<Json> ParseStrictJson(absl::string_view text, absl::string_view where) {
  Json root;
  TreeBuilder builder(where, &root);
  RETURN_IF_ERROR(ParseJsonEvents(text, where, kMaxString, builder));
  return root;
}

absl::StatusOr<Json> ParseStrictJsonObject(absl::string_view text, absl::string_view where) {
  ASSIGN_OR_RETURN(Json root, ParseStrictJson(text, where));
  if (!root.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": found ", DescribeJson(root), ", expected a JSON object"));
  }
  return root;
}

absl::StatusOr<std::string> JsonQuote(absl::string_view text) {
  try {
    return Json(std::string(text)).dump();
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError(absl::StrCat("name ", Quoted(text), " is not valid UTF-8"));
  }
}

std::string DescribeJson(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return absl::StrCat("an array of ", value.size());
    case Json::value_t::string:
      return absl::StrCat("the string ", Quoted(value.get_ref<const std::string&>()));
    case Json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    case Json::value_t::number_float:
      return absl::StrCat("the number ", value.get<double>(), " (not an integer)");
    default:
      return absl::StrCat("the number ", value.dump());
  }
}

const Json* JsonFields::Find(absl::string_view key) const {
  const auto entry = object_.find(std::string(key));
  return entry == object_.end() || entry->is_null() ? nullptr : &*entry;
}

absl::Status JsonFields::Wrong(absl::string_view key, absl::string_view expected) const {
  const auto entry = object_.find(std::string(key));
  return absl::InvalidArgumentError(absl::StrCat(
      where_, ": ", EscapedName(key), " is ",
      entry == object_.end() ? "missing" : DescribeJson(*entry), ", expected ", expected));
}

absl::StatusOr<std::optional<int64_t>> JsonFields::OptionalInteger(absl::string_view key,
                                                                   int64_t min, int64_t max) const {
  const Json* value = Find(key);
  if (value == nullptr) return std::optional<int64_t>();
  const auto wrong = [&] { return Wrong(key, absl::StrCat("an integer from ", min, " to ", max)); };
  if (!value->is_number_integer()) return wrong();
  if (value->is_number_unsigned() &&
      value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return wrong();
  }
  const int64_t integer = value->get<int64_t>();
  if (integer < min || integer > max) return wrong();
  return std::optional<int64_t>(integer);
}

absl::StatusOr<int64_t> JsonFields::Integer(absl::string_view key, int64_t min, int64_t max) const {
  ASSIGN_OR_RETURN(const auto value, OptionalInteger(key, min, max));
  if (!value) return Wrong(key, absl::StrCat("an integer from ", min, " to ", max));
  return *value;
}

absl::StatusOr<std::optional<double>> JsonFields::OptionalNumber(absl::string_view key) const {
  const Json* value = Find(key);
  if (value == nullptr) return std::optional<double>();
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    return Wrong(key, "a finite number");
  }
  return std::optional<double>(value->get<double>());
}

absl::StatusOr<double> JsonFields::Number(absl::string_view key) const {
  ASSIGN_OR_RETURN(const auto value, OptionalNumber(key));
  if (!value) return Wrong(key, "a finite number");
  return *value;
}

absl::StatusOr<std::optional<std::string>> JsonFields::OptionalString(absl::string_view key) const {
  const Json* value = Find(key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return Wrong(key, "a string");
  return std::optional<std::string>(value->get<std::string>());
}

absl::StatusOr<std::string> JsonFields::String(absl::string_view key) const {
  ASSIGN_OR_RETURN(auto value, OptionalString(key));
  if (!value) return Wrong(key, "a string");
  return *std::move(value);
}

absl::StatusOr<std::optional<bool>> JsonFields::OptionalBool(absl::string_view key) const {
  const Json* value = Find(key);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) return Wrong(key, "true or false");
  return std::optional<bool>(value->get<bool>());
}

absl::StatusOr<std::vector<std::string>> JsonFields::OptionalStrings(absl::string_view key) const {
  ASSIGN_OR_RETURN(const Json* array, OptionalArray(key));
  std::vector<std::string> strings;
  if (array == nullptr) return strings;
  for (const Json& element : *array) {
    if (!element.is_string()) return Wrong(key, "an array of strings only");
    strings.push_back(element.get<std::string>());
  }
  return strings;
}

absl::StatusOr<const Json*> JsonFields::OptionalObject(absl::string_view key) const {
  const Json* value = Find(key);
  if (value != nullptr && !value->is_object()) return Wrong(key, "an object");
  return value;
}

absl::StatusOr<const Json*> JsonFields::OptionalArray(absl::string_view key) const {
  const Json* value = Find(key);
  if (value != nullptr && !value->is_array()) return Wrong(key, "an array");
  return value;
}

}  // namespace quantd
