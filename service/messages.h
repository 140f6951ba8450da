// Between the API's messages and the rooms' own types.
#ifndef QUANTD_SERVICE_MESSAGES_H_
#define QUANTD_SERVICE_MESSAGES_H_

#include <memory>
#include <string>

#include "google/longrunning/operations.pb.h"
#include "models/model.h"
#include "quant/v1/methods.pb.h"
#include "quant/v1/models.pb.h"
#include "quant/v1/quantization.pb.h"
#include "quantizers/method.h"
#include "service/context.h"

namespace quantd {

quant::v1::Method ToMessage(const Method& method);
google::longrunning::Operation ToMessage(const OperationSnapshot& operation);
quant::v1::OperationMetadata MetadataOf(const OperationSnapshot& operation);
quant::v1::QuantizeReport ToMessage(const QuantizeReport& report);
google::protobuf::Duration ToMessage(absl::Duration duration);
google::protobuf::Timestamp ToMessage(absl::Time time);

// Facts of a model of the root, from its headers and, when loaded, from memory. A checkpoint that
// cannot be opened is reported with the reason; NOT_FOUND when it is not there at all.
absl::StatusOr<quant::v1::Model> DescribeModel(const ServiceContext& services,
                                               const std::string& name);
// The same for an opened source.
void FillFromSource(const ModelSource& source, quant::v1::Model& out);

// The recipe of a request. INVALID_ARGUMENT names the field.
absl::StatusOr<std::shared_ptr<const Recipe>> RecipeFromMessage(const quant::v1::Recipe& message);
// The recipe in one line for people: "bitsandbytes load_in_4bit=true".
std::string DescribeRecipe(const quant::v1::Recipe& message);
// The same bytes for the same message, whatever the order of its maps.
std::string Canonical(const google::protobuf::Message& message);

}  // namespace quantd

#endif  // QUANTD_SERVICE_MESSAGES_H_
