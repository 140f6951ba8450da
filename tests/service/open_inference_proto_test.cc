// Our declaration of the Open Inference Protocol against the descriptors of published clients, and
// against messages that they serialized.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "inference/grpc_service.pb.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using nlohmann::json;

json ReadJson(const std::string& name) {
  std::ifstream in(TestData("inference/" + name));
  return json::parse(in);
}

std::string TypeName(const FieldDescriptor& field) {
  if (field.is_map()) {
    const FieldDescriptor& key = *field.message_type()->map_key();
    const FieldDescriptor& value = *field.message_type()->map_value();
    return absl::StrCat("map<", TypeName(key), ", ", TypeName(value), ">");
  }
  if (field.type() == FieldDescriptor::TYPE_MESSAGE) {
    return std::string(field.message_type()->full_name());
  }
  if (field.type() == FieldDescriptor::TYPE_ENUM) {
    return std::string(field.enum_type()->full_name());
  }
  return field.type_name();
}

const Descriptor* Find(const std::string& message) {
  inference::ModelInferRequest::descriptor();  // links the generated file in
  return DescriptorPool::generated_pool()->FindMessageTypeByName("inference." + message);
}

// Fields of `section` that our declaration has must agree; `all` demands every one of them.
void ExpectFields(const json& section, bool all) {
  for (const auto& [message, fields] : section.items()) {
    const Descriptor* ours = Find(message);
    ASSERT_NE(ours, nullptr) << message;
    for (const auto& [name, want] : fields.items()) {
      const FieldDescriptor* field = ours->FindFieldByName(name);
      if (field == nullptr) {
        EXPECT_FALSE(all) << message << "." << name << " is missing";
        EXPECT_EQ(ours->FindFieldByNumber(want[0].get<int>()), nullptr)
            << message << ": number of " << name << " is used for another field";
        continue;
      }
      EXPECT_EQ(field->number(), want[0].get<int>()) << message << "." << name;
      EXPECT_EQ(TypeName(*field), want[1].get<std::string>()) << message << "." << name;
      if (!field->is_map()) {
        EXPECT_EQ(field->is_repeated(), want[2].get<bool>()) << message << "." << name;
      }
      const auto* oneof = field->real_containing_oneof();
      EXPECT_EQ(oneof != nullptr ? std::string(oneof->name()) : "", want[3].get<std::string>())
          << message << "." << name;
    }
  }
}

TEST(OpenInferenceProto, MessagesAreTritons) {
  ExpectFields(ReadJson("fields.json")["triton"], true);
}

TEST(OpenInferenceProto, ConfigurationIsASubsetOfTritons) {
  const json facts = ReadJson("fields.json");
  ExpectFields(facts["model_config"], false);
  const auto* data_type =
      DescriptorPool::generated_pool()->FindEnumTypeByName("inference.DataType");
  ASSERT_NE(data_type, nullptr);
  EXPECT_EQ(data_type->value_count(), static_cast<int>(facts["data_type"].size()));
  for (const auto& [name, number] : facts["data_type"].items()) {
    const auto* value = data_type->FindValueByName(name);
    ASSERT_NE(value, nullptr) << name;
    EXPECT_EQ(value->number(), number.get<int>()) << name;
  }
}

TEST(OpenInferenceProto, LoadRepliesAreKServesToo) {
  ExpectFields(ReadJson("fields.json")["kserve"], true);
}

TEST(OpenInferenceProto, ServiceHasEveryMethod) {
  inference::ModelInferRequest::descriptor();
  const auto* service =
      DescriptorPool::generated_pool()->FindServiceByName("inference.GRPCInferenceService");
  ASSERT_NE(service, nullptr);
  const json methods = ReadJson("fields.json")["service"];
  EXPECT_EQ(service->method_count(), static_cast<int>(methods.size()));
  for (const auto& [name, want] : methods.items()) {
    const auto* method = service->FindMethodByName(name);
    ASSERT_NE(method, nullptr) << name;
    EXPECT_EQ(method->input_type()->name(), want[0].get<std::string>());
    EXPECT_EQ(method->output_type()->name(), want[1].get<std::string>());
    EXPECT_EQ(method->client_streaming(), want[2].get<bool>());
    EXPECT_EQ(method->server_streaming(), want[3].get<bool>());
  }
}

TEST(OpenInferenceProto, ParsesWhatClientsSerialize) {
  int parsed = 0;
  auto* factory = google::protobuf::MessageFactory::generated_factory();
  for (const json& vector : ReadJson("vectors.json")) {
    const std::string type = vector["message"];
    const std::string name = vector["name"];
    if (!absl::StartsWith(type, "inference.")) {
      continue;
    }
    const Descriptor* descriptor = Find(type.substr(sizeof("inference.") - 1));
    ASSERT_NE(descriptor, nullptr) << type;
    std::unique_ptr<google::protobuf::Message> message(factory->GetPrototype(descriptor)->New());
    const std::string bytes = absl::HexStringToBytes(vector["hex"].get<std::string>());
    ASSERT_TRUE(message->ParseFromString(bytes)) << name;
    ++parsed;
    if (name == "kserve_load") {
      const auto& load = dynamic_cast<inference::RepositoryModelLoadRequest&>(*message);
      EXPECT_EQ(load.repository_name(), "m");
      EXPECT_TRUE(load.model_name().empty());
      continue;
    }
    std::unique_ptr<google::protobuf::Message> want(factory->GetPrototype(descriptor)->New());
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(vector["text"].get<std::string>(),
                                                              want.get()))
        << name;
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*message, *want)) << name;
    std::unique_ptr<google::protobuf::Message> again(message->New());
    ASSERT_TRUE(again->ParseFromString(message->SerializeAsString()));
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*message, *again)) << name;
  }
  EXPECT_EQ(parsed, 8);
}

}  // namespace
}  // namespace quantd
