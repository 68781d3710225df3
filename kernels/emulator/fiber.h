// fiber.h: stacks and the switch between them.
#pragma once
#include <stddef.h>

namespace emu {

// Saves the registers a callee must keep, stores this stack's pointer to *from, and goes on where `to` left off.
extern "C" void emu_switch_stack(void** from, void* to);

// A stack pointer from which emu_switch_stack enters `entry`, which must never return. `top` is the stack's upper end.
void* fresh_stack(unsigned char* top, void (*entry)());

enum { STACK_BYTES = 64 << 10 };

}  // namespace emu
