// Which instruction set runs, and with what warp: chosen once from the CPU, or by name for tests and benchmarks.
#pragma once

#include <string>
#include <vector>

namespace cxr {

std::vector<std::string> compiled_paths();
std::vector<std::string> usable_paths();  // compiled, and this CPU has the instructions
std::string current_path();
void set_path(const std::string& name);   // throws std::invalid_argument

}  // namespace cxr
