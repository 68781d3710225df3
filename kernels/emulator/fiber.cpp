// fiber.cpp: the context switch. Only registers that the calling convention makes a callee keep are saved: the switch
// is an ordinary function call to the compiler.
#include "fiber.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
asm(R"(
.text
.globl emu_switch_stack
.hidden emu_switch_stack
.type emu_switch_stack,@function
.p2align 4
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch_stack,.-emu_switch_stack
.section .note.GNU-stack,"",@progbits
.text
)");

namespace emu {

void* fresh_stack(unsigned char* top, void (*entry)()) {
    void** sp = (void**)((uintptr_t)top & ~(uintptr_t)63);
    *--sp = nullptr;          // where entry would return to; keeps the alignment that a call leaves
    *--sp = (void*)entry;     // where the first switch returns to
    for (int saved = 0; saved < 6; saved++) *--sp = nullptr;
    return sp;
}

}  // namespace emu

#elif defined(__aarch64__)
asm(R"(
.text
.globl emu_switch_stack
.hidden emu_switch_stack
emu_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");

namespace emu {

void* fresh_stack(unsigned char* top, void (*entry)()) {
    void** sp = (void**)((uintptr_t)top & ~(uintptr_t)63) - 20;
    memset(sp, 0, 160);
    sp[11] = (void*)entry;  // x30, the link register
    return sp;
}

}  // namespace emu

#else
#error "the emulator has a context switch for x86-64 and aarch64 only"
#endif
