// quantctl models
#include <cstdio>

#include "absl/strings/str_format.h"
#include "client/quantctl/context.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {

void AddModels(CLI::App& app, Context& context) {
  auto loaded_only = std::make_shared<bool>(false);
  CLI::App* verb = app.add_subcommand("models", "models of the root and whether they are loaded");
  verb->add_flag("--loaded", *loaded_only, "only those in memory");
  verb->callback([&context, loaded_only] {
    context.run = [loaded_only](Context& ctx) -> absl::Status {
      auto client = ctx.client();
      if (!client.ok()) return client.status();
      quant::v1::ListModelsRequest request;
      request.set_loaded_only(*loaded_only);
      request.set_page_size(1000);
      quant::v1::ListModelsResponse all;
      do {
        const auto page = (*client)->ListModels(request, ctx.call());
        if (!page.ok()) return page.status();
        all.mutable_models()->MergeFrom(page->models());
        request.set_page_token(page->next_page_token());
      } while (!request.page_token().empty());
      if (ctx.json()) {
        ctx.PrintJson(all);
        return absl::OkStatus();
      }
      std::vector<std::vector<std::string>> rows = {
          {"MODEL", "STATE", "ARCHITECTURE", "QUANTIZATION", "SIZE", "BITS/WEIGHT", "DEVICE"}};
      for (const quant::v1::Model& model : all.models()) {
        rows.push_back({model.name(), quant::v1::Model::State_Name(model.state()),
                        model.architecture(), model.quantization(), HumanBytes(model.size_bytes()),
                        absl::StrFormat("%.2f", model.bits_per_weight()),
                        model.device().empty() ? "-" : model.device()});
      }
      std::fputs(Table(rows).c_str(), stdout);
      return absl::OkStatus();
    };
  });
}

}  // namespace quantd::ctl
