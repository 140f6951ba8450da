// quantctl completion bash|zsh|fish: a script made from the verbs and options themselves.
#include <google/protobuf/struct.pb.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/quantctl/context.h"

namespace quantd::ctl {
namespace {

std::vector<std::string> OptionsOf(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// Words that can follow a verb: its subcommands and options.
std::string WordsOf(const CLI::App& verb) {
  std::vector<std::string> words = OptionsOf(verb);
  for (const CLI::App* sub : verb.get_subcommands(nullptr)) {
    words.push_back(sub->get_name());
    for (const std::string& option : OptionsOf(*sub)) words.push_back(option);
  }
  return absl::StrJoin(words, " ");
}

std::vector<const CLI::App*> Verbs(const CLI::App& app) {
  std::vector<const CLI::App*> verbs;
  for (const CLI::App* verb : app.get_subcommands(nullptr)) verbs.push_back(verb);
  return verbs;
}

std::string Bash(const CLI::App& app) {
  std::string cases, names;
  for (const CLI::App* verb : Verbs(app)) {
    absl::StrAppend(&names, verb->get_name(), " ");
    absl::StrAppend(&cases, "      ", verb->get_name(), ") words=\"", WordsOf(*verb),
                    "\"; break ;;\n");
  }
  return absl::StrCat(
      "_quantctl() {\n"
      "  local current=\"${COMP_WORDS[COMP_CWORD]}\" word\n"
      "  local words=\"",
      names, absl::StrJoin(OptionsOf(app), " "), "\"\n",
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n    case \"$word\" in\n", cases,
      "    esac\n  done\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "}\ncomplete -o default -F _quantctl quantctl\n");
}

std::string Fish(const CLI::App& app) {
  std::string text;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      absl::StrAppend(&text, "complete -c quantctl -l ", name, " -d '",
                      absl::StrReplaceAll(option->get_description(), {{"'", "\\'"}}), "'\n");
    }
  }
  for (const CLI::App* verb : Verbs(app)) {
    const std::string help = absl::StrReplaceAll(verb->get_description(), {{"'", "\\'"}});
    absl::StrAppend(&text, "complete -c quantctl -n __fish_use_subcommand -a ", verb->get_name(),
                    " -d '", help, "'\n");
    absl::StrAppend(&text, "complete -c quantctl -n '__fish_seen_subcommand_from ",
                    verb->get_name(), "' -a '", WordsOf(*verb), "'\n");
  }
  return text;
}

}  // namespace

void AddCompletion(CLI::App& app, Context& context) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("completion", "a completion script for your shell");
  verb->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->callback([&context, &app, shell] {
    context.run = [&app, shell](Context& ctx) {
      std::string script = *shell == "fish" ? Fish(app) : Bash(app);
      if (*shell == "zsh") script = "autoload -U +X bashcompinit && bashcompinit\n" + script;
      if (ctx.json()) {
        google::protobuf::Struct document;
        (*document.mutable_fields())["script"].set_string_value(script);
        ctx.PrintJson(document);
      } else {
        std::fputs(script.c_str(), stdout);
      }
      return absl::OkStatus();
    };
  });
}

}  // namespace quantd::ctl
