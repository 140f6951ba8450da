// quantctl operations [list|get|watch|cancel]
#include <cstdio>

#include <google/protobuf/empty.pb.h>

#include "absl/strings/str_cat.h"
#include "client/quantctl/context.h"
#include "client/quantctl/quantize_report.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {
namespace {

using google::longrunning::Operation;
using quant::v1::OperationMetadata;

std::vector<std::string> Row(const Operation& operation) {
  OperationMetadata metadata;
  operation.metadata().UnpackTo(&metadata);
  const quant::v1::Progress& progress = metadata.progress();
  return {operation.name(),
          metadata.verb(),
          OperationMetadata::State_Name(metadata.state()),
          absl::StrCat(progress.tensors_done(), "/", progress.tensors_total()),
          metadata.model(),
          metadata.output_name(),
          operation.has_error() ? operation.error().message() : metadata.description()};
}

const std::vector<std::string> kHeader = {"OPERATION", "VERB",   "STATE", "TENSORS",
                                          "MODEL",     "OUTPUT", "DETAIL"};

absl::Status List(Context& context) {
  auto client = context.client();
  if (!client.ok()) return client.status();
  google::longrunning::ListOperationsRequest request;
  request.set_name("operations");
  request.set_page_size(1000);
  const auto response = (*client)->ListOperations(request, context.call());
  if (!response.ok()) return response.status();
  if (context.json()) {
    context.PrintJson(*response);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {kHeader};
  for (const Operation& operation : response->operations()) rows.push_back(Row(operation));
  std::fputs(Table(rows).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status Print(Context& context, const absl::StatusOr<Operation>& operation) {
  if (!operation.ok()) return operation.status();
  if (context.json()) {
    context.PrintJson(*operation);
  } else {
    std::fputs(Table({kHeader, Row(*operation)}).c_str(), stdout);
  }
  if (operation->done() && operation->has_error()) {
    return absl::Status(static_cast<absl::StatusCode>(operation->error().code()),
                        operation->error().message());
  }
  return absl::OkStatus();
}

absl::Status Watch(Context& context, const std::string& name) {
  auto client = context.client();
  if (!client.ok()) return client.status();
  JobProgress progress("operation");
  const auto report = progress.callback();
  const auto done = (*client)->Watch(
      name,
      [&report](const Operation& state) {
        OperationMetadata metadata;
        if (state.metadata().UnpackTo(&metadata)) report(metadata.progress());
      },
      context.call());
  progress.End();
  return Print(context, done);
}

}  // namespace

void AddOperations(CLI::App& app, Context& context) {
  auto name = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("operations", "long-running work");
  verb->require_subcommand(0, 1);
  const auto set = [&context](auto run) { return [&context, run] { context.run = run; }; };
  verb->add_subcommand("list", "all operations")->callback(set(List));
  const auto add = [&](const char* what, const char* help, auto run) {
    CLI::App* sub = verb->add_subcommand(what, help);
    sub->add_option("operation", *name, "operations/ID")->required();
    sub->callback(set(run));
  };
  add("get", "the state of one", [name](Context& ctx) -> absl::Status {
    auto client = ctx.client();
    if (!client.ok()) return client.status();
    return Print(ctx, (*client)->GetOperation(*name, ctx.call()));
  });
  add("watch", "follow one to its end", [name](Context& ctx) { return Watch(ctx, *name); });
  add("cancel", "stop one; nothing is left behind", [name](Context& ctx) -> absl::Status {
    auto client = ctx.client();
    if (!client.ok()) return client.status();
    const absl::Status status = (*client)->CancelOperation(*name, ctx.call());
    if (status.ok() && ctx.json()) ctx.PrintJson(google::protobuf::Empty());
    return status;
  });
  verb->callback([&context, verb] {
    if (verb->get_subcommands().empty()) context.run = List;
  });
}

}  // namespace quantd::ctl
