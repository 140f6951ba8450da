// quantctl tokenize MODEL TEXT
#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/quantctl/context.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {

void AddTokenize(CLI::App& app, Context& context) {
  struct Flags {
    std::string model, text;
    bool chat = false, no_special_tokens = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("tokenize", "token ids and pieces of a text");
  verb->add_option("model", flags->model, "a model of the root")->required();
  verb->add_option("text", flags->text, "the text")->required();
  verb->add_flag("--chat", flags->chat, "as a user message through the chat template");
  verb->add_flag("--no-special-tokens", flags->no_special_tokens, "the text's own tokens only");
  verb->callback([&context, flags] {
    context.run = [flags](Context& ctx) -> absl::Status {
      auto client = ctx.client();
      if (!client.ok()) return client.status();
      quant::v1::TokenizeRequest request;
      request.set_model(flags->model);
      request.set_add_special_tokens(!flags->no_special_tokens);
      if (flags->chat) {
        auto* message = request.mutable_chat()->add_messages();
        message->set_role("user");
        message->set_content(flags->text);
      } else {
        request.set_text(flags->text);
      }
      const auto response = (*client)->Tokenize(request, ctx.call());
      if (!response.ok()) return response.status();
      if (ctx.json()) {
        ctx.PrintJson(*response);
        return absl::OkStatus();
      }
      std::vector<std::vector<std::string>> rows = {{"ID", "PIECE"}};
      for (int i = 0; i < response->ids_size(); ++i) {
        rows.push_back(
            {absl::StrCat(response->ids(i)), absl::Utf8SafeCEscape(response->pieces(i))});
      }
      std::fputs(Table(rows).c_str(), stdout);
      return absl::OkStatus();
    };
  });
}

}  // namespace quantd::ctl
