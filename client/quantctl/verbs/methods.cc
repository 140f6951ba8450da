// quantctl methods [NAME]
#include <cstdio>

#include "client/quantctl/context.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {
namespace {

std::string YesNo(bool value) { return value ? "yes" : "no"; }

std::string Calibration(const quant::v1::Method& method) {
  return method.needs_calibration() ? "yes" : method.takes_calibration() ? "optional" : "no";
}

absl::Status ListAll(Context& context, Client& client) {
  const auto response = client.ListMethods(context.call());
  if (!response.ok()) return response.status();
  if (context.json()) {
    context.PrintJson(*response);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {{"METHOD", "BITS", "CALIBRATION", "ON THE FLY",
                                                 "CPU", "OPENCL", "LORA", "SERIALIZABLE",
                                                 "UPSTREAM"}};
  for (const quant::v1::Method& method : response->methods()) {
    rows.push_back({method.name(), method.bits(), Calibration(method), YesNo(method.on_the_fly()),
                    YesNo(method.cpu()), YesNo(method.opencl()), YesNo(method.lora()),
                    YesNo(method.serializable()), method.upstream_loader()});
  }
  std::fputs(Table(rows).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status ShowOne(Context& context, Client& client, const std::string& name) {
  const auto method = client.GetMethod(name, context.call());
  if (!method.ok()) return method.status();
  if (context.json()) {
    context.PrintJson(*method);
    return absl::OkStatus();
  }
  std::printf("%s: %s\nbits: %s\nloads with: %s\n\n", method->name().c_str(),
              method->summary().c_str(), method->bits().c_str(), method->upstream_loader().c_str());
  std::vector<std::vector<std::string>> rows = {{"OPTION", "DEFAULT", "ALLOWED", "MEANING"}};
  for (const quant::v1::MethodOption& option : method->options()) {
    std::string allowed;
    for (const std::string& value : option.allowed_values()) {
      allowed += (allowed.empty() ? "" : ",") + value;
    }
    rows.push_back({option.name(), option.default_value().empty() ? "-" : option.default_value(),
                    allowed.empty() ? "-" : allowed, option.description()});
  }
  std::fputs(Table(rows).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddMethods(CLI::App& app, Context& context) {
  auto name = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("methods", "list the methods, or the options of one");
  verb->add_option("name", *name, "a method");
  verb->callback([&context, name] {
    context.run = [name](Context& ctx) -> absl::Status {
      auto client = ctx.client();
      if (!client.ok()) return client.status();
      return name->empty() ? ListAll(ctx, **client) : ShowOne(ctx, **client, *name);
    };
  });
}

}  // namespace quantd::ctl
