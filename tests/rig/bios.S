# A BIOS that does nothing but put the guest's ACPI tables into its memory and run the boot sector of
# everywhere.S, which it contains: QEMU's own takes seconds before that on an emulated CPU. It is the last
# 64 KiB below 4 GiB, where a processor starts; the sector is the first thing in it.
#
# The tables are as QEMU hands them to a BIOS: without checksums and addresses. QEMU copies them itself,
# see docs/specs/fw_cfg.rst. They go to the end of the memory below 4 GiB, as others put them.
	.code16
	.globl _start
_start:
	.incbin	"everywhere.raw", 0, 512

	.equ	LIST, 0x19		# of the files, which are items, too
	.equ	READ, 0x02		# into memory
	.equ	SELECT, 0x08		# the item, whose number is in the upper half
	.equ	request, 0x600		# what to do, how much, where to: big endian, 32, 32 and 64 bits
	.equ	list, 0x1000		# how many; of each its size, its number, two bytes, its name
	.equ	ROOM, 64 * 64

start:
	cli
	cld
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp

	movl	$(LIST << 16 | SELECT | READ), %eax
	movl	$ROOM, %ecx
	movl	$list, %edi
	call	read

	movw	$(list + 4 - 64), %bx
1:	addw	$64, %bx
	cmpw	$(list + ROOM), %bx
	jae	2f
	leaw	8(%bx), %di
	movw	$(name - _start), %si
	movw	$(name_end - name), %cx
	repe cmpsb %es:(%di), %cs:(%si)
	jne	1b

	movl	(%bx), %ecx
	bswapl	%ecx
	movb	$0x35, %al		# of the clock's memory: that above 16 MiB, in units of 64 KiB
	outb	%al, $0x70
	inb	$0x71, %al
	movb	%al, %ah
	movb	$0x34, %al
	outb	%al, $0x70
	inb	$0x71, %al
	movzwl	%ax, %edi
	addl	$0x100, %edi
	shll	$16, %edi
	subl	%ecx, %edi
	movzwl	4(%bx), %eax
	xchgb	%al, %ah
	shll	$16, %eax
	orb	$(SELECT | READ), %al
	call	read
2:
	movw	$0x7c00, %di
	xorw	%si, %si
	movw	$512, %cx
	rep movsb %cs:(%si), %es:(%di)
	ljmp	$0, $0x7c00

# Does what %eax says with %ecx bytes at %edi; it is done when the lower half of the address is written.
read:
	bswapl	%eax
	movl	%eax, request
	bswapl	%ecx
	movl	%ecx, request + 4
	movl	$0, request + 8
	bswapl	%edi
	movl	%edi, request + 12
	movw	$0x514, %dx
	xorl	%eax, %eax
	outl	%eax, %dx
	movw	$0x518, %dx
	movl	$request, %eax
	bswapl	%eax
	outl	%eax, %dx
	ret

name:
	.asciz	"etc/acpi/tables"
name_end:

	.org	0xfff0
	.byte	0xe9			# a jump in these 64 KiB
	.word	start - _start - 0xfff3
	.org	0x10000
