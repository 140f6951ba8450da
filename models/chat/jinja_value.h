// Values of the template language, with Python's meaning of truth, equality, order and text.
#ifndef QUANTD_MODELS_CHAT_JINJA_VALUE_H_
#define QUANTD_MODELS_CHAT_JINJA_VALUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd::jinja {

class Value;
struct Macro;
struct ListBox;
struct MapBox;

struct Undefined {
  std::string name;
};
struct None {};
using List = std::vector<Value>;
// Insertion-ordered; keys are strings.
using Map = std::vector<std::pair<std::string, Value>>;
// namespace(): the one thing a template may change.
struct Namespace {
  Map fields;
};
// A function of ours, or a method bound to a value.
struct Function {
  std::string name;
  std::shared_ptr<const Value> self;
};

// Cheap to copy: strings, lists and maps are shared and never change.
class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(None none) : data_(none) {}       // NOLINT
  Value(bool value) : data_(value) {}     // NOLINT
  Value(int64_t value) : data_(value) {}  // NOLINT
  Value(double value) : data_(value) {}   // NOLINT
  Value(std::string text)                 // NOLINT
      : data_(std::make_shared<const std::string>(std::move(text))) {}
  Value(const char* text) : Value(std::string(text)) {}                 // NOLINT
  Value(List list);                                                     // NOLINT
  Value(Map map);                                                       // NOLINT
  Value(std::shared_ptr<Namespace> space) : data_(std::move(space)) {}  // NOLINT
  Value(Function function) : data_(std::move(function)) {}              // NOLINT
  Value(const Macro* macro) : data_(macro) {}                           // NOLINT
  static Value MakeUndefined(std::string name) {
    Value value;
    value.data_ = Undefined{std::move(name)};
    return value;
  }

  bool IsUndefined() const { return std::holds_alternative<Undefined>(data_); }
  bool IsNone() const { return std::holds_alternative<None>(data_); }
  bool IsBool() const { return std::holds_alternative<bool>(data_); }
  bool IsInteger() const { return std::holds_alternative<int64_t>(data_); }
  bool IsDouble() const { return std::holds_alternative<double>(data_); }
  bool IsNumber() const { return IsInteger() || IsDouble() || IsBool(); }
  bool IsString() const {
    return std::holds_alternative<std::shared_ptr<const std::string>>(data_);
  }
  bool IsList() const { return std::holds_alternative<std::shared_ptr<const ListBox>>(data_); }
  bool IsMap() const { return std::holds_alternative<std::shared_ptr<const MapBox>>(data_); }

  const std::string& UndefinedName() const { return std::get<Undefined>(data_).name; }
  const std::string& String() const { return *std::get<std::shared_ptr<const std::string>>(data_); }
  const List& AsList() const;
  const Map& AsMap() const;
  Namespace* AsNamespace() const {
    const auto* space = std::get_if<std::shared_ptr<Namespace>>(&data_);
    return space == nullptr ? nullptr : space->get();
  }
  const Function* AsFunction() const { return std::get_if<Function>(&data_); }
  const Macro* AsMacro() const {
    const auto* macro = std::get_if<const Macro*>(&data_);
    return macro == nullptr ? nullptr : *macro;
  }
  // Of a bool, integer or double.
  double Number() const;
  int64_t Integer() const;  // of a bool or integer

  // Levels of lists and mappings in it (of a method: in the value it is bound to), and about how
  // many bytes its text takes. A list may hold another many times over, so both are kept rather
  // than found by walking.
  int depth() const;
  size_t weight() const;

  bool Truth() const;
  // Python's str(); nested strings are quoted as repr() does.
  std::string Text() const;
  std::string Repr() const;
  // What jinja's and Python's messages call the type.
  const char* TypeName() const;

  friend bool Equal(const Value& a, const Value& b);

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>,
               std::shared_ptr<const ListBox>, std::shared_ptr<const MapBox>,
               std::shared_ptr<Namespace>, Function, const Macro*>
      data_;
};

struct ListBox {
  List list;
  int depth = 1;
  size_t weight = 8;
};
struct MapBox {
  Map map;
  int depth = 1;
  size_t weight = 8;
};

bool Equal(const Value& a, const Value& b);
// Order of two numbers or two strings; false in `comparable` for anything else.
int Compare(const Value& a, const Value& b, bool* comparable);
// Null when there is no such key.
const Value* FindKey(const Map& map, absl::string_view key);
// Python's json.dumps(ensure_ascii=False); indent < 0 means on one line.
std::string ToJson(const Value& value, int indent);

}  // namespace quantd::jinja

#endif  // QUANTD_MODELS_CHAT_JINJA_VALUE_H_
